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


@pytest.fixture
def started_again(monkeypatch):
    def by(job, times):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(times))

    return by


@pytest.mark.parametrize("name", [None, "a"])
def test_a_restarted_torchrun_goes_on_with_its_own_run(tmp_path, started_again, name):
    def look(job, times, **options):
        started_again(job, times)
        run = RunFolder(tmp_path, **options)
        path, resume = run.path, run.resume
        run.release()
        return path.name, resume

    own, resume = look("job", 0, name=name)
    assert not resume
    assert look("another", 0, name="b") == ("b", False), "newer, and not its own"
    assert look("job", 1, name=name) == (own, True), "be it killed before its first checkpoint"
    finish = RunFolder(tmp_path, name="c", resume=False)
    started_again("job", 0)
    finish_epoch(finish)
    finish.release()
    assert look("job", 2, name=name) == ("c", True), "the newest that it has begun"
    assert look("new", 1, name="d") == ("d", False), "it had begun none"


def test_nothing_is_made_before_the_first_look(tmp_path):
    RunFolder(tmp_path / "runs", "a")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(InputError, match=r"file '/proc/runs/a': the run's folder cannot be made: .*--output_dir"):
        _ = RunFolder("/proc/runs", "a").path


def test_a_name_whose_run_was_killed_before_it_could_say_what_it_is_is_free(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (".lock", ".tmp-4194999-0123abcd-run.json"):
        (tmp_path / "a" / name).touch()
    run = RunFolder(tmp_path, "a", prefix="cells")
    assert read_facts(run.path) == {"data_list": "cells"}
    assert {file.name for file in run.path.iterdir()} == {".lock", "run.json"}


def test_runs_without_a_name_never_share_a_folder(tmp_path):
    runs = [RunFolder(tmp_path, prefix="cells") for _ in range(5)]
    paths = {run.path for run in runs}
    assert len(paths) == 5
    assert all(path.is_dir() and path.name.startswith("cells-") for path in paths)


def test_a_name_whose_run_has_a_checkpoint_is_refused(tmp_path):
    first = RunFolder(tmp_path, "a")
    finish_epoch(first)
    first.release()
    with pytest.raises(InputError, match=r"never overwritten.*--run_name, or continue it with --resume true"):
        _ = RunFolder(tmp_path, "a").path
    assert (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes() == b"state"


def test_a_run_stopped_before_its_first_checkpoint_gives_its_name_back(tmp_path):
    first = RunFolder(tmp_path, "a", prefix="cells")
    first.remember(mlflow_run_id="1")
    for name in ("configs/train.json", ".tmp-12-0123abcd-run.json", "notes.txt"):
        (first.path / name).parent.mkdir(exist_ok=True)
        (first.path / name).write_text("{}")
    with pytest.raises(InputError, match="another process"):
        _ = RunFolder(tmp_path, "a").path
    first.release()
    again = RunFolder(tmp_path, "a", prefix="cells")
    assert read_facts(again.path) == {"data_list": "cells"}, "another run, which knows nothing of the first one"
    assert {file.name for file in again.path.iterdir()} == {".lock", "run.json", "notes.txt"}


def test_a_folder_that_holds_only_a_journal_is_free(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mlflow.journal").touch()  # of a sweep that was killed as it noted why this trial had failed
    assert RunFolder(tmp_path, "a").path == tmp_path / "a"


def test_a_folder_that_holds_a_model_or_anything_else_is_refused_and_left_alone(tmp_path):
    with_model = RunFolder(tmp_path, "a")
    with_model.best_model.parent.mkdir()
    with_model.best_model.write_bytes(b"weights")
    with_model.release()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("x")
    for name in ("a", "b"):
        with pytest.raises(InputError, match=f"never overwritten.*or delete '{tmp_path}/{name}'"):
            _ = RunFolder(tmp_path, name).path
    assert with_model.best_model.read_bytes() == b"weights"
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["../a", "a/b", ".."])
def test_a_name_cannot_leave_the_output_folder(tmp_path, name):
    with pytest.raises(InputError, match="is not one folder's name"):
        _ = RunFolder(tmp_path / "runs", name).path


def finished(folder, name, age=0, **options):
    run = RunFolder(folder, name, **options)
    finish_epoch(run, age)
    run.release()


def test_resume_takes_the_newest_checkpoint_or_the_named_run(tmp_path):
    finished(tmp_path, "old", age=100)
    finished(tmp_path, "new")
    assert RunFolder(tmp_path, resume=True).path.name == "new"
    assert RunFolder(tmp_path, "old", resume=True).path.name == "old"


def test_resume_without_a_name_takes_a_run_of_its_own_data_list(tmp_path):
    finished(tmp_path, "a", age=100, prefix="cells")
    finished(tmp_path, "cells-like", prefix="membranes")
    assert RunFolder(tmp_path, resume=True, prefix="cells").path.name == "a"
    with pytest.raises(InputError, match=r"of the data list 'organs'.*there are: a of 'cells', cells-like of 'm"):
        _ = RunFolder(tmp_path, resume=True, prefix="organs").path


def test_resume_knows_a_run_that_remembers_no_data_list_by_its_name(tmp_path):
    finished(tmp_path, "cells-20260101-120000", prefix="cells")
    (tmp_path / "cells-20260101-120000" / "run.json").write_text("{}")
    assert RunFolder(tmp_path, resume=True, prefix="cells").path.name == "cells-20260101-120000"
    with pytest.raises(InputError, match="nothing to resume"):
        _ = RunFolder(tmp_path, resume=True, prefix="cell").path


def test_a_named_run_of_another_data_list_is_not_resumed(tmp_path):
    finished(tmp_path, "a", prefix="cells")
    with pytest.raises(InputError, match="is of the data list 'cells', not of 'nuclei'"):
        _ = RunFolder(tmp_path, "a", resume=True, prefix="nuclei").path
    assert RunFolder(tmp_path, "a", resume=True, prefix="cells").path == tmp_path / "a"


def test_a_name_is_no_pattern(tmp_path):
    finished(tmp_path, "ab")
    with pytest.raises(InputError, match=r"a\*' is no run.*there are: ab of 'run'"):
        _ = RunFolder(tmp_path, "a*", resume=True).path


def test_resume_of_a_run_without_a_checkpoint_keeps_what_it_remembers(tmp_path):
    first = RunFolder(tmp_path, "a")
    first.remember(mlflow_run_id="1")
    first.release()
    with pytest.raises(InputError, match="nothing to resume"):
        _ = RunFolder(tmp_path, resume=True).path
    again = RunFolder(tmp_path, "a", resume=True)
    assert read_facts(again.path)["mlflow_run_id"] == "1"
    assert not again.last_checkpoint.exists()


def test_resume_does_not_train_over_a_model_whose_checkpoint_is_gone(tmp_path):
    finished(tmp_path, "a")
    run = tmp_path / "a"
    (run / "models").mkdir()
    (run / "models" / "model.pt").write_bytes(b"weights")
    (run / "checkpoints" / "last.pt").unlink()
    with pytest.raises(InputError, match=r"holds a model, but no checkpoints/last.pt.*delete '.*/a/models/model.pt'"):
        _ = RunFolder(tmp_path, "a", resume=True).path


def test_what_a_kill_left_half_written_is_removed_on_resume(tmp_path):
    finished(tmp_path, "a")
    left = [".tmp-12-0123abcd-run.json", "checkpoints/.tmp-1234567-89abcdef-last.pt", "models/.tmp-9-00000000-model.pt"]
    kept = ["evaluation/test/.tmp-77-0123abcd-worst.png", "models/model.pt", "models/.tmp-mine"]
    for name in (*left, *kept):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"x")
    assert RunFolder(tmp_path, "a", resume=True).path.is_dir()
    assert not any((tmp_path / "a" / name).exists() for name in left)
    assert all((tmp_path / "a" / name).exists() for name in kept), "an evaluation may be writing; the rest is not ours"


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
    assert read_facts(run.path) == {"data_list": "run", "mlflow_run_id": "1", "mlflow_uri": "sqlite:///x"}
    assert json.loads((run.path / "run.json").read_text())["mlflow_run_id"] == "1"
    assert read_facts(tmp_path) == {}
