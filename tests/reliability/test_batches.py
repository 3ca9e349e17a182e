"""Whole batches: divided into shards, on a disk that gets full, and with nothing to do."""

import json
import subprocess
import sys

import numpy as np
import pytest
from bad_files import cut, stored, voxels, write_volume
from batch_process import BatchProcess
from places import disk, fill

from pipeline.volumes.reading import read_volume


def write_scans(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(folder / name, voxels(number))
    return folder


def results(out):
    """The content of what was predicted, by path: no records, no summary."""
    files = [file for file in out.rglob("*") if file.is_file() and not file.name.startswith("summary")]
    found = {str(file.relative_to(out)): file.read_bytes() for file in files}
    return {name: content for name, content in found.items() if not name.startswith(".completed/")}


def is_mask(result, array):
    return np.array_equal(read_volume(result, 3).array[0], array > 0)


# shards


def test_shards_at_once_give_what_one_process_gives(threshold, predict, tmp_path):
    source = write_scans(tmp_path / "in", "a.nii.gz", "x/a.nii.gz", "x/b.nrrd", "c.mhd", "y/a.nii", "d.mha", "e.nii")
    arguments = [threshold[3], source, tmp_path / "parts", "--probabilities", "--num_shards", 3]
    shards = [BatchProcess([*arguments, "--shard_id", number], tmp_path / "log") for number in range(3)]
    assert [shard.status() for shard in shards] == [0, 0, 0], (tmp_path / "log").read_text()
    whole = predict(source, tmp_path / "whole", save_probabilities=True)
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    rows = [json.loads((tmp_path / "parts" / f"summary-{number}-of-3.json").read_text()) for number in range(3)]
    assert [len(part) for part in rows] == [3, 2, 2]
    assert sorted(row["case"] for part in rows for row in part) == sorted(whole.rows)
    again = predict(source, tmp_path / "parts", save_probabilities=True, resume=True)
    assert again.done == set(whole.rows)


# a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 512 KiB, seen through the process that mounted it for itself alone."""
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", "size=512k") as folder:
        yield folder


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_the_case_that_finds_the_disk_full_leaves_no_part(suffix, predict, small_disk, tmp_path):
    source = write_scans(tmp_path / "in", "a.nii.gz", "z.nii.gz")
    large = np.random.default_rng(0).integers(-9, 9, (96, 96, 64)).astype(np.int16)  # its mask takes 72 KiB at least
    write_volume(source / f"large{suffix}", large)
    fill(small_disk, leave=64 * 1024)
    batch = predict(source, small_disk / "out", crop_size=[96, 96, 96])
    assert batch.done == {"a", "z"}
    for part in ("case 'large'", f"large{suffix}'", "disk full", "Remedy: free space"):
        assert part in batch.reasons["large"]
    assert sorted(results(batch.out)) == ["a.nii.gz", "z.nii.gz"]
    assert is_mask(batch.out / "a.nii.gz", voxels(0))
    assert is_mask(batch.out / "z.nii.gz", voxels(1))
    (small_disk / "filler").unlink()
    batch = predict(source, small_disk / "out", crop_size=[96, 96, 96], resume=True)
    assert batch.done == {"a", "large", "z"}
    assert is_mask(batch.out / f"large{suffix}", large)


def test_a_disk_without_room_for_the_summary(predict, small_disk, tmp_path):
    source = write_scans(tmp_path / "in", "a.nii.gz")
    fill(small_disk)
    batch = predict(source, small_disk / "out")
    assert "disk full" in str(batch.error)
    assert "Remedy: free space" in str(batch.error)
    assert results(batch.out) == {}


# nothing to do


def missing(folder):
    return folder / "nowhere"


def empty(folder):
    return folder


def without_images(folder):
    (folder / "notes.txt").write_text("no image")
    (folder / "table.csv").write_text("none either")
    (folder / ".hidden.nii.gz").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("make", "words"), [(missing, "does not exist"), (empty, "holds no image"), (without_images, "holds no image")]
)
def test_nothing_to_predict_is_an_error(make, words, predict, tmp_path):
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    batch = predict(source)
    for part in (f"file '{source}'", words, "Remedy: "):
        assert part in str(batch.error)
    assert not batch.out.exists()


def test_a_folder_of_unusable_files_alone(predict, tmp_path):
    source = write_scans(tmp_path / "in", "a.nii.gz", "b.nrrd")
    for file in source.iterdir():
        cut(file)
    batch = predict(source)
    assert "2 of 2 images were not predicted" in str(batch.error)
    assert batch.reasons.keys() == {"a", "b"}
    assert results(batch.out) == {}


def test_the_input_folder_is_no_output_folder(predict, tmp_path):
    source = write_scans(tmp_path / "in", "a.nii.gz")
    batch = predict(source, tmp_path / "." / "in")
    assert "the output folder is the input folder" in str(batch.error)
    np.testing.assert_array_equal(stored(source / "a.nii.gz"), voxels(0))
    assert len(list(source.iterdir())) == 1


def test_the_command_line_ends_with_a_status_and_one_message(threshold, tmp_path):
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-m", "pipeline", "predict", str(threshold[3]), str(tmp_path / "in"), "out"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: file '{tmp_path}/in': holds no image")
    assert "Traceback" not in result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"in"}
