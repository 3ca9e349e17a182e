"""A batch that is killed at any moment and resumed leaves what an uninterrupted one leaves, byte for byte."""

import json
import random
import shutil
import signal

import numpy as np
import pytest
from bad_files import stored, voxels, write_volume
from batch_process import BatchProcess, KillAfter, SignalAtRename
from threshold_bundle import write_weights

FILES = ("a.nii.gz", "b/a.nii.gz", "b/c.mhd", "d.nrrd", "e.nii")
CASES = {"a", "b/a", "b/c", "d", "e"}
RENAMES = 17  # label map, probabilities and record of five cases, of which a .mhd's are two files each


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "b").mkdir()
    for number, name in enumerate(FILES):
        write_volume(folder / name, voxels(number))
    return folder


def tree(out):
    """The content of every file, hidden ones too, by its path; times are left out of records and the summary."""
    found = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.parent.name == ".completed" and not file.name.startswith(".tmp-"):
            found[name] = untimed(json.loads(file.read_bytes().partition(b"\n")[0]))
        elif name == "summary.json":
            found[name] = [untimed(row) for row in json.loads(file.read_text())]
        elif file.is_file() and name != "summary.csv":
            found[name] = file.read_bytes()
    return found


def untimed(content):
    shown = {key: value for key, value in content.items() if not key.startswith("seconds")}
    return shown | {"result": untimed(shown["result"])} if "result" in shown else shown


def outputs_of_complete_cases(out):
    """Place on the disk and time of writing of the outputs that have a record and are there."""
    contents = [file.read_bytes() for file in (out / ".completed").glob("[!.]*.json")]
    names = [name for content in contents for name, *_ in json.loads(content.partition(b"\n")[0])["outputs"]]
    states = {name: (out / name).stat() for name in names if (out / name).exists()}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in states.items()}


@pytest.fixture(scope="module")
def whole(source, threshold, tmp_path_factory):
    """What an uninterrupted batch leaves, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    child = BatchProcess([threshold[3], source, folder / "out", "--probabilities"], folder / "log")
    assert child.status() == 0, (folder / "log").read_text()
    rows = json.loads((folder / "out" / "summary.json").read_text())
    assert {row["case"] for row in rows if row["status"] == "done"} == CASES
    content = tree(folder / "out")
    assert len(content) == RENAMES + 1  # the summary
    return content, sum(row["seconds"] for row in rows)


@pytest.fixture
def interrupt(source, threshold, tmp_path):
    """Return `interrupt(sabotage, *options)`, which runs the batch in a child until a signal; it gives the status."""

    def run(sabotage, *options):
        arguments = [threshold[3], source, tmp_path / "out", "--probabilities", *options]
        return BatchProcess(arguments, tmp_path / "log", sabotage).status()

    return run


@pytest.fixture
def resume(source, predict, tmp_path):
    """Return `resume()`, which ends the batch in this process; it gives the outputs that were not touched."""

    def run(**overrides):
        before = outputs_of_complete_cases(tmp_path / "out")
        batch = predict(source, resume=True, save_probabilities=True, **overrides)
        assert (batch.done, batch.error) == (CASES, None)
        after = outputs_of_complete_cases(tmp_path / "out")
        return {name for name in before if after.get(name) == before[name]}

    return run


def only_whole_files(out, whole):
    """What has its final name is as the uninterrupted batch leaves it, but for the summary, which says what waits."""
    visible = {name: content for name, content in tree(out).items() if "/.tmp-" not in f"/{name}"}
    rows = visible.pop("summary.json", [])
    assert {row["status"] for row in rows} <= {"done", "waiting"}
    assert all(content == whole[name] for name, content in visible.items())


SUMMARY = 2  # files that are written before the first case
KILLS = [(1, False), (1, True), (2, True), (3, True), (6, False), (7, True), (8, False), (10, False), (11, False)]
KILLS += [(13, True), (RENAMES, False), (RENAMES, True)]


@pytest.mark.parametrize(("number", "after"), KILLS, ids=[f"{'after' if a else 'before'} rename {n}" for n, a in KILLS])
def test_killed_at_a_rename_and_resumed(number, after, interrupt, resume, whole, tmp_path):
    content, _ = whole
    assert interrupt(SignalAtRename(SUMMARY + number, after)) == -signal.SIGKILL
    only_whole_files(tmp_path / "out", content)
    complete = outputs_of_complete_cases(tmp_path / "out")
    assert resume() == set(complete), "what was complete is not done again"
    assert tree(tmp_path / "out") == content


def test_killed_again_and_again_at_random_times(interrupt, resume, whole, tmp_path):
    content, seconds = whole
    seed = random.Random(0)
    moments = sorted(seed.uniform(0, 0.8 * seconds) for _ in range(8))  # the first comes before any case is done
    statuses = [interrupt(KillAfter(moment), "--resume") for moment in moments]
    assert -signal.SIGKILL in statuses
    only_whole_files(tmp_path / "out", content)
    resume()
    assert tree(tmp_path / "out") == content


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_the_batch_leaves_a_summary(which, interrupt, resume, whole, tmp_path):
    content, _ = whole
    assert interrupt(SignalAtRename(SUMMARY + 7, which=which)) not in (0, -signal.SIGKILL)
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {row["case"] for row in rows} == CASES
    done = {row["case"] for row in rows if row["status"] == "done"}
    assert done >= {"a", "b/a"}
    assert done < CASES
    assert "--resume" in (tmp_path / "log").read_text()
    only_whole_files(tmp_path / "out", content)
    resume()
    assert tree(tmp_path / "out") == content


# what is complete, and what no longer is


@pytest.fixture
def finished(source, predict, tmp_path):
    """The folder of a batch without an interruption."""
    assert predict(source, save_probabilities=True).done == CASES
    return tmp_path / "out"


def test_a_complete_batch_is_not_done_again(finished, resume, whole):
    assert resume() == set(outputs_of_complete_cases(finished))
    assert tree(finished) == whole[0]


def change(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [change, lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_an_output_that_was_changed_or_deleted_is_made_again(spoil, finished, resume, whole):
    spoil(finished / "b" / "a_prob.nii.gz")
    untouched = resume()
    assert outputs_of_complete_cases(finished).keys() - untouched == {"b/a.nii.gz", "b/a_prob.nii.gz"}
    assert tree(finished) == whole[0]


def test_a_record_that_is_half_written_does_not_count(finished, resume, whole):
    records = sorted((finished / ".completed").iterdir())
    records[0].write_bytes(records[0].read_bytes()[:-20])
    records[1].unlink()
    resume()
    assert tree(finished) == whole[0]


def test_with_other_weights_all_is_made_again(finished, predict, source, threshold, tmp_path):
    before = outputs_of_complete_cases(finished)
    other = shutil.copytree(threshold[3], tmp_path / "other")
    write_weights(other, 3, at=100)
    batch = predict(source, bundle=other, resume=True, save_probabilities=True)
    after = outputs_of_complete_cases(finished)
    assert not [name for name in before if after.get(name) == before[name]]
    for number, name in enumerate(FILES):
        if "nii" in name:
            np.testing.assert_array_equal(stored(batch.out / name), voxels(number) > 100)
