"""What a case takes of the memory, and how much of it there is."""

import nibabel as nib
import numpy as np
import psutil
import pytest

from pipeline.batch import memory
from pipeline.batch.memory import Need, check_room, free_bytes, least_bytes, wants_room
from pipeline.errors import InputError


@pytest.fixture
def volume(tmp_path):
    file = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((10, 20, 30), np.int16), np.eye(4)), file)
    return file


def test_a_case_takes_its_stored_and_its_float32_voxels(volume, tmp_path):
    assert least_bytes((volume,), 3) == 10 * 20 * 30 * (2 + 4)
    assert least_bytes((volume, volume), 3) == 2 * 10 * 20 * 30 * (2 + 4)
    (tmp_path / "b.nii").write_bytes(b"no header")
    assert least_bytes((volume, tmp_path / "b.nii"), 3) == 0


def test_what_the_network_sees_counts_where_it_is_resampled_and_where_classes_are_kept(volume):
    need = Need(lambda header: 8 * header.shape[0] * header.shape[1] * header.shape[2], kept_classes=5)
    assert least_bytes((volume,), 3, need) == 6000 * (2 + 4) + 8 * 6000 * 4 + 8 * 6000 * 5 * 4
    assert least_bytes((volume,), 3, Need(None, 5)) == 6000 * (2 + 4) + 6000 * 5 * 4


NAMES = {
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def limit(folder, most, current, inactive, version="v2"):
    limit_file, use_file, key = NAMES[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(most)
    (folder / use_file).write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{key} {inactive}\nactive_file 7\n")
    return folder


def test_a_containers_limit_counts_where_it_is_the_lower_one(tmp_path):
    machine, nowhere = psutil.virtual_memory().total, tmp_path / "nowhere"
    assert free_bytes(limit(tmp_path, "1000000", 400000, 100000), nowhere) == 700000
    assert 1000000 < free_bytes(limit(tmp_path, "max\n", 400000, 100000), nowhere) <= machine
    assert 1000000 < free_bytes(limit(tmp_path, str(10 * machine), 0, 0), nowhere) <= machine
    assert 1000000 < free_bytes(nowhere, nowhere) <= machine


@pytest.mark.parametrize(
    ("version", "place", "line"),
    [("v2", "slurm/job_7", "0::/slurm/job_7/step_0"), ("v1", "memory/slurm/job_7", "4:memory:/slurm/job_7")],
)
def test_the_limit_of_a_job_stands_in_its_own_group_or_above(tmp_path, version, place, line):
    limit(tmp_path / "groups" / place, "1000000", 400000, 100000, version)
    (tmp_path / "membership").write_text(f"9:cpu:/other\n{line}\n")
    assert free_bytes(tmp_path / "groups", tmp_path / "membership") == 700000


def test_what_cannot_fit_is_refused_with_its_need(volume, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 36000)
    check_room((volume,), 3, "a")
    monkeypatch.setattr(memory, "free_bytes", lambda: 35999)
    with pytest.raises(InputError, match=r"case 'a', file '.*a\.nii\.gz': its voxels take 0\.0 GiB of memory"):
        check_room((volume,), 3, "a")


def test_a_case_wants_to_be_alone_if_three_would_not_fit(volume, monkeypatch):
    # 36,000 bytes at least, three times as much in all, and three cases are in memory: 324,000 bytes.
    monkeypatch.setattr(memory, "free_bytes", lambda: 324000)
    assert not wants_room((volume,), 3)
    monkeypatch.setattr(memory, "free_bytes", lambda: 323990)
    assert wants_room((volume,), 3)
