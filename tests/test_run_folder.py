import json
import os

import pytest

from pipeline.errors import InputError
from pipeline.run_folder import RunFolder, read_facts


def finish_epoch(run, age=0):
    run.last_checkpoint.parent.mkdir()
    run.last_checkpoint.write_bytes(b"state")
    stamp = run.last_checkpoint.stat().st_mtime - age
    os.utime(run.last_checkpoint, (stamp, stamp))


def test_nothing_is_made_before_the_first_look(tmp_path):
    RunFolder(tmp_path / "runs", "a")
    assert not (tmp_path / "runs").exists()


def test_runs_without_a_name_never_share_a_folder(tmp_path):
    runs = [RunFolder(tmp_path, prefix="cells") for _ in range(5)]
    paths = {run.path for run in runs}
    assert len(paths) == 5
    assert all(path.is_dir() and path.name.startswith("cells-") for path in paths)


def test_a_name_that_is_taken_is_refused(tmp_path):
    RunFolder(tmp_path, "a").path.joinpath("precious").write_text("x")
    with pytest.raises(InputError, match=r"never overwritten.*--run_name, or continue it with --resume true"):
        _ = RunFolder(tmp_path, "a").path
    assert (tmp_path / "a" / "precious").read_text() == "x"


@pytest.mark.parametrize("name", ["../a", "a/b", ".."])
def test_a_name_cannot_leave_the_output_folder(tmp_path, name):
    with pytest.raises(InputError, match="is not one folder's name"):
        _ = RunFolder(tmp_path / "runs", name).path


def test_resume_takes_the_newest_checkpoint_or_the_named_run(tmp_path):
    runs = {name: RunFolder(tmp_path, name) for name in ("old", "new")}
    finish_epoch(runs["old"], age=100)
    finish_epoch(runs["new"])
    for run in runs.values():
        run.release()
    newest, named = RunFolder(tmp_path, resume=True), RunFolder(tmp_path, "old", resume=True)
    assert newest.path.name == "new"
    assert named.path.name == "old"


def test_resume_without_a_checkpoint_is_an_error(tmp_path):
    assert RunFolder(tmp_path, "started_only").path.is_dir()
    with pytest.raises(InputError, match="nothing to resume"):
        _ = RunFolder(tmp_path, resume=True).path


def test_two_processes_cannot_train_the_same_run(tmp_path):
    first = RunFolder(tmp_path, "a")
    finish_epoch(first)
    with pytest.raises(InputError, match="another process"):
        _ = RunFolder(tmp_path, "a", resume=True).path
    first.release()
    assert RunFolder(tmp_path, "a", resume=True).path == first.path


def test_facts_add_up(tmp_path):
    run = RunFolder(tmp_path, "a")
    run.remember(mlflow_run_id="1")
    run.remember(mlflow_uri="sqlite:///x")
    assert read_facts(run.path) == {"mlflow_run_id": "1", "mlflow_uri": "sqlite:///x"}
    assert json.loads((run.path / "run.json").read_text())["mlflow_run_id"] == "1"
    assert read_facts(tmp_path) == {}
