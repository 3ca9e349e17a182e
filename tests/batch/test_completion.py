import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.batch import completion
from pipeline.batch.completion import Completion, digest_of
from pipeline.batch.inputs import Input

MODEL = {"weights": "w1", "settings": "s1"}


@pytest.fixture
def entry(tmp_path):
    """A case of two files, the folder `out` its output folder."""
    (tmp_path / "out").mkdir()
    parts = (tmp_path / "a_0000.nii", tmp_path / "a_0001.nii")
    for part in parts:
        part.write_text(f"voxels of {part.name}")
    return Input("sub/a", parts, parts)


def finish(entry, out, model=MODEL):
    """Do the case: two outputs and the record."""
    records = Completion(out, model)
    records.begin(entry)
    outputs = [out / "sub" / "a.nii.gz", out / "sub" / "a_probabilities.nii.gz"]
    outputs[0].parent.mkdir(exist_ok=True)
    for output in outputs:
        output.write_text(f"result of {output.name}")
    records.mark_complete(entry, outputs)
    return outputs


def test_a_case_is_complete_after_its_record_alone(entry, tmp_path):
    out = tmp_path / "out"
    records = Completion(out, MODEL)
    assert not records.is_complete(entry)
    outputs = finish(entry, out)
    assert records.is_complete(entry)
    assert Completion(out, MODEL).is_complete(entry)
    for file in (out / ".completed").iterdir():
        file.unlink()
    assert all(output.exists() for output in outputs)
    assert records.why_incomplete(entry) == "it has no record"
    assert not records.is_complete(replace(entry, case="sub/b"))


def test_changed_inputs(entry, tmp_path):
    finish(entry, tmp_path / "out")
    records = Completion(tmp_path / "out", MODEL)
    second = entry.parts[1]
    whole, times = second.read_bytes(), os.stat(second)
    second.write_bytes(whole[:-1] + b"X")  # of the same size and time
    os.utime(second, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert records.why_incomplete(entry) == "its input has changed"
    second.write_bytes(whole)  # at another time, which changes nothing
    assert records.is_complete(entry)
    assert not records.is_complete(replace(entry, parts=entry.parts[:1]))
    assert not records.is_complete(replace(entry, parts=entry.parts[::-1]))
    second.unlink()
    assert records.why_incomplete(entry) == "its input has changed"


def test_a_data_set_that_moved_stays_complete(entry, tmp_path):
    finish(entry, tmp_path / "out")
    (tmp_path / "moved").mkdir()
    for part in entry.parts:
        part.rename(tmp_path / "moved" / part.name)
    (tmp_path / "out").rename(tmp_path / "moved" / "out")
    there = replace(entry, parts=tuple(tmp_path / "moved" / part.name for part in entry.parts))
    assert Completion(tmp_path / "moved" / "out", MODEL).is_complete(there)


def test_an_input_that_changes_while_it_is_predicted(entry, tmp_path):
    out = tmp_path / "out"
    records = Completion(out, MODEL)
    assert not records.is_complete(entry)
    entry.parts[0].write_text("changed after the reading")
    (out / "a.nii").write_text("result of the earlier voxels")
    records.mark_complete(entry, [out / "a.nii"])
    assert records.why_incomplete(entry) == "its input has changed"


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        (MODEL | {"weights": "w2"}, "weights"),
        (MODEL | {"settings": "s2"}, "settings"),
        (MODEL | {"more": "m"}, "more"),
        ({"weights": "w1"}, "settings"),
    ],
)
def test_a_changed_model(entry, tmp_path, model, changed):
    finish(entry, tmp_path / "out")
    assert Completion(tmp_path / "out", model).why_incomplete(entry) == f"changed: {changed}"


def test_another_version_of_the_package(entry, tmp_path, monkeypatch):
    finish(entry, tmp_path / "out")
    monkeypatch.setattr(completion.pipeline, "__version__", "0.0.0")
    assert Completion(tmp_path / "out", MODEL).why_incomplete(entry) == "changed: pipeline"


@pytest.mark.parametrize("number", [0, 1])
def test_damaged_outputs(entry, tmp_path, number):
    output = finish(entry, tmp_path / "out")[number]
    records = Completion(tmp_path / "out", MODEL)
    whole = output.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + b"X", whole + b"X"):
        output.write_bytes(damaged)
        assert records.why_incomplete(entry) == f"its output 'sub/{output.name}' is missing or has changed"
    output.write_bytes(whole)
    assert records.is_complete(entry)
    output.unlink()
    assert not records.is_complete(entry)


def test_a_record_cut_at_any_byte_or_with_any_byte_changed_does_not_count(entry, tmp_path):
    finish(entry, tmp_path / "out")
    records = Completion(tmp_path / "out", MODEL)
    (file,) = (tmp_path / "out" / ".completed").iterdir()
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position])
        assert records.why_incomplete(entry) == "it has no record"
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert records.why_incomplete(entry) == "it has no record"
    file.write_bytes(whole + b"more")
    assert not records.is_complete(entry)
    file.write_bytes(whole)
    assert records.is_complete(entry)


def test_a_record_is_of_its_case(entry, tmp_path):
    finish(entry, tmp_path / "out")
    (file,) = (tmp_path / "out" / ".completed").iterdir()
    records = Completion(tmp_path / "out", MODEL)
    other = replace(entry, case="sub/b")
    finish(other, tmp_path / "out")
    assert len(list((tmp_path / "out" / ".completed").iterdir())) == 2
    assert records.is_complete(entry)
    assert records.is_complete(other)
    assert file.exists()


def test_ids_that_no_file_could_be_named_after(entry, tmp_path):
    for case in ("x" * 1000, "../up", "naïve/\udcff", "a:b*c"):
        named = replace(entry, case=case)
        finish(named, tmp_path / "out")
        assert Completion(tmp_path / "out", MODEL).is_complete(named)
    assert len(list((tmp_path / "out" / ".completed").iterdir())) == 4


def test_mark_complete_wants_a_case_that_was_begun_and_outputs(entry, tmp_path):
    records = Completion(tmp_path / "out", MODEL)
    with pytest.raises(ValueError, match="was not begun"):
        records.mark_complete(entry, [entry.parts[0]])
    records.begin(entry)
    with pytest.raises(ValueError, match="has no output"):
        records.mark_complete(entry, [])


WORKER = """
import sys
from pathlib import Path
from pipeline.batch.completion import Completion
from pipeline.batch.inputs import Input
top, shard = Path(sys.argv[1]), int(sys.argv[2])
records = Completion(top / "out", {"weights": "w"})
for number in range(10**6 if sys.argv[3] == "endless" else 40):
    part = top / "in.nii"
    entry = Input(f"{shard}/{number}", (part,), (part,))
    records.begin(entry)
    output = top / "out" / f"{shard}-{number}.nii"
    output.write_text(f"{shard} {number}")
    records.mark_complete(entry, [output])
    print(number, flush=True)
"""


def start(tmp_path, shard, length):
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(shard), length]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(completion.__file__).parents[1])


def test_two_shards_write_at_once_and_a_killed_one_leaves_only_whole_records(tmp_path):
    part = tmp_path / "in.nii"
    part.write_text("voxels")
    (tmp_path / "out").mkdir()
    with start(tmp_path, 0, "endless") as killed, start(tmp_path, 1, "finite") as whole:
        said = [killed.stdout.readline() for _ in range(25)]
        killed.kill()
        said += killed.stdout.readlines()
        assert whole.communicate()[0].split() == [str(number) for number in range(40)]
    records = Completion(tmp_path / "out", {"weights": "w"})
    done = [f"0/{number.strip()}" for number in said] + [f"1/{number}" for number in range(40)]
    assert all(records.is_complete(Input(case, (part,), (part,))) for case in done)
    assert not records.is_complete(Input(f"0/{len(said) + 1}", (part,), (part,)))


def test_the_digest_of_settings_does_not_depend_on_their_order():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"a": float("nan")})


def test_a_zarr_store_as_input_and_as_output(tmp_path):
    """Its metadata and its chunks' sizes and times are recorded, for its voxels may be more than anyone reads twice."""
    for folder in (tmp_path / "x.zarr", tmp_path / "out" / "x.zarr" / "labels" / "cells"):
        (folder / "0").mkdir(parents=True)
        (folder / ".zattrs").write_text("{}")
        (folder / "0" / "0").write_bytes(b"voxels")
    entry = Input("x", (tmp_path / "x.zarr",), (), store=str(tmp_path / "x.zarr"))
    records = Completion(tmp_path / "out", MODEL)
    records.begin(entry)
    records.mark_complete(entry, [tmp_path / "out" / "x.zarr"])
    assert records.is_complete(entry)
    assert records.leftovers(entry) == [tmp_path / "out" / "x.zarr"]
    assert not records.is_complete(replace(entry, store=str(tmp_path / "none.zarr")))

    chunk = tmp_path / "out" / "x.zarr" / "labels" / "cells" / "0" / "0"
    chunk.rename(chunk.with_name("1"))
    assert records.why_incomplete(entry) == "its output 'x.zarr' is missing or has changed"
    chunk.with_name("1").rename(chunk)
    assert records.is_complete(entry)
    (tmp_path / "x.zarr" / "0" / "1").write_bytes(b"more")
    assert records.why_incomplete(entry) == "its input has changed"
