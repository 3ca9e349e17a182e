"""A run whose server was down ends up in it as if it had been there all the time."""

import functools
import json
import shutil
import signal
import subprocess
import sys

import pytest
from discs import UNET, small_training
from forked import Python
from mlflow.tracking import MlflowClient
from servers import absent

from pipeline import feeder
from pipeline.errors import InputError
from pipeline.feeder import Feeder
from pipeline.handlers.mlflow_run import MLflowRun
from pipeline.mlflow_writer import MLflowWriter
from pipeline.run_folder import RunFolder, read_facts
from pipeline.sync import sync
from pipeline.tracking import Tracking

EPOCHS = 5


@pytest.fixture
def uri(tmp_path, empty_store):
    shutil.copyfile(empty_store, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def in_haste(monkeypatch):
    """Feeders that try again at once, and write two entries of metrics at a time."""
    monkeypatch.setattr(feeder, "BATCH", 2)
    monkeypatch.setattr(Feeder.__init__, "__defaults__", (lambda: True, 0.01))


def journaled(folder, meant_for, status="FINISHED"):
    """Leave the journal of a run in a folder, as of a process whose server was down from first to last."""
    run = RunFolder(folder.parent, folder.name)
    (run.path / "card.txt").write_text("a run")
    tracking = Tracking(meant_for, "tests", system_metrics_every=600)
    tracking.start(folder.name, {"colour": "blue"}, params={"rate": 0.1}, folder=run.path)
    for step in range(1, 8):
        tracking.metrics({"loss": 1 / step, "rate": 0.1}, step)
    tracking.artifact(run.path / "card.txt", "docs")
    tracking.tag(best="7")
    assert tracking.end(status)
    run.release()
    return run.path


def contents(uri, run_id):
    """All that a store has of a run, but for when and where it ran."""
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    names = [name for name in run.data.metrics if not name.startswith(("time/", "system/"))]
    histories = {
        name: [(entry.step, entry.value) for entry in client.get_metric_history(run_id, name)] for name in names
    }
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "metrics": {name: sorted(history) for name, history in histories.items()},
        "tags": {key: run.data.tags.get(key) for key in ("colour", "best", "bundle", "data_list.digest")},
        "has_model_digest": "model_digest" in run.data.tags,  # of a file with its own name in it
        "params": {key: value for key, value in run.data.params.items() if key not in ("run_name", "mlflow/uri")},
        "inputs": [(data.dataset.name, data.dataset.digest) for data in run.inputs.dataset_inputs],
        "artifacts": sorted(files(client, run_id)),
        "models": [
            str(model.status)
            for model in client.search_logged_models([run.info.experiment_id])
            if model.source_run_id == run_id
        ],
    }


def files(client, run_id, folder=None):
    for entry in client.list_artifacts(run_id, folder):
        yield from files(client, run_id, entry.path) if entry.is_dir else [entry.path]


def only_run(uri, experiment="tests"):
    """The one run that a store has."""
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


# --- on a local store ---------------------------------------------------------------------------------------------


def test_a_run_without_a_server_is_written_later_as_it_was(tmp_path, uri, capsys, in_haste):
    folder = journaled(tmp_path / "runs" / "a", absent())
    first, *_, last = (folder / "mlflow.journal").read_text().splitlines()
    began, ended = json.loads(first)["time"], json.loads(last)["time"]
    (done,) = sync([folder], uri)
    found = contents(uri, done.run_id)
    assert (done.status, done.uri, found["status"], found["name"]) == ("FINISHED", uri, "FINISHED", "a")
    assert found["metrics"]["loss"] == [(step, 1 / step) for step in range(1, 8)]
    assert (found["params"], found["tags"]["colour"], found["tags"]["best"]) == ({"rate": "0.1"}, "blue", "7")
    assert found["artifacts"] == ["docs/card.txt"]
    info = only_run(uri).info
    assert (info.start_time, info.end_time) == (began, ended), "not when it was written"
    assert read_facts(folder)["mlflow_run_id"] == done.run_id, "so that a resumed training continues it"
    assert not list(folder.glob("mlflow*"))
    assert (
        capsys.readouterr().out == f"{done.journal}: {done.entries} entries to run {done.run_id} at {uri}: FINISHED\n"
    )
    assert sync(output_dir=tmp_path / "runs") == []
    assert capsys.readouterr().out == "MLflow has everything already\n"


def test_a_sync_that_is_killed_anywhere_is_done_again_without_a_trace(tmp_path, uri, in_haste, monkeypatch):
    write = MLflowWriter.write
    template = journaled(tmp_path / "template", absent())
    sync([shutil.copytree(template, tmp_path / "whole" / "a")], uri)
    whole = contents(uri, only_run(uri).info.run_id)

    def dying(writer, entries, *, state, at):
        """Do what is asked `at` times, once more without living to tell, and then no more."""
        state["calls"] += 1
        if state["calls"] <= at + 1:
            facts = write(writer, entries)
        if state["calls"] > at:
            raise ConnectionError("killed")
        return facts

    for at in range(9):  # opening, two looks and seven metrics by two, artifact, tags, end: nine or ten calls
        store = shutil.copyfile(tmp_path / "store.db", tmp_path / f"{at}.db")
        MlflowClient(f"sqlite:///{store}").delete_run(only_run(f"sqlite:///{store}").info.run_id)
        folder = shutil.copytree(template, tmp_path / str(at) / "a")
        with monkeypatch.context() as patch:
            patch.setattr(MLflowWriter, "write", functools.partialmethod(dying, state={"calls": 0}, at=at))
            with pytest.raises(InputError, match="has not taken all of it: killed"):
                sync([folder], f"sqlite:///{store}")
        sync([folder], f"sqlite:///{store}")
        assert contents(f"sqlite:///{store}", only_run(f"sqlite:///{store}").info.run_id) == whole, at
        history = MlflowClient(f"sqlite:///{store}").get_metric_history(
            only_run(f"sqlite:///{store}").info.run_id, "system/cpu_utilization_percentage"
        )
        assert [entry.step for entry in history] == [0, 1]


def test_without_names_all_runs_are_written_but_those_still_training(tmp_path, uri, capsys, in_haste):
    for name in ("first", "second", "busy"):
        journaled(tmp_path / "runs" / name, absent())
    training = RunFolder(tmp_path / "runs", "busy", resume=True)
    assert training.path
    done = sync(uri=uri, output_dir=tmp_path / "runs")
    assert [synced.journal.parent.name for synced in done] == ["first", "second"]
    assert "left out: the run" in capsys.readouterr().out
    with pytest.raises(InputError, match="is being trained or synced by another process"):
        sync([training.path], uri)
    training.release()
    assert [synced.journal.parent.name for synced in sync([training.path], uri)] == ["busy"]


HOLD = "import pathlib, sys, time; from pipeline.journal import Journal; j = Journal(pathlib.Path(sys.argv[1]));"


def test_a_run_whose_journal_is_being_written_is_left_out(tmp_path, uri, capsys):
    journal = tmp_path / "mlflow.journal"  # of a sweep's trial, whose folds are trained in other folders
    command = [sys.executable, "-c", HOLD + "print('held', flush=True); time.sleep(60)", str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert sync(uri=uri, output_dir=tmp_path) == []
            with pytest.raises(InputError, match="another process writes this journal"):
                sync([tmp_path], uri)
        finally:
            holder.kill()
    assert f"left out: file '{journal}': another process writes this journal" in capsys.readouterr().out


def test_what_was_set_aside_is_a_run_of_its_own(tmp_path, uri, in_haste):
    folder = journaled(tmp_path / "a", absent())
    (folder / "mlflow.journal").rename(folder / "mlflow-1.journal")
    again = Tracking(absent(), "tests", system_metrics_every=0)
    again.start("again", {}, folder=folder)
    again.metrics({"loss": 0.5}, 1)
    again.end("FAILED")
    first, second = sync([folder], uri)
    assert (first.status, second.status) == ("FINISHED", "FAILED")
    assert contents(uri, second.run_id)["metrics"] == {"loss": [(1, 0.5)]}
    assert read_facts(folder)["mlflow_run_id"] == second.run_id


def test_mistakes_are_told_in_one_line(tmp_path, uri, in_haste):
    with pytest.raises(InputError, match="there is no folder"):
        sync([tmp_path / "nowhere"])
    folder, server = journaled(tmp_path / "a", absent()), absent()
    with pytest.raises(InputError, match=f"no MLflow server answers at {server}. Remedy: start it"):
        sync([folder], server)
    (folder / "mlflow-1.journal").write_text('{"kind": "tags", "tags": {}}\n')
    with pytest.raises(InputError, match="does not say which run it is of"):
        sync([folder], uri)
    (folder / "mlflow-1.journal").unlink()
    with (folder / "mlflow.journal").open("a") as stream:
        stream.write(json.dumps({"written": 0, "run_id": "0" * 32, "uri": "sqlite:////somewhere.db"}) + "\n")
    with pytest.raises(InputError, match=r"does not know the run 0{32}.*it was sqlite:////somewhere.db"):
        sync([folder], uri)
    assert MlflowClient(uri).get_experiment_by_name("tests") is None, "nothing was written"


# --- with a server, trained in earnest ------------------------------------------------------------------------------


def acting(monkeypatch, at):
    """Let something happen after an epoch's end, before it is tracked: {epoch: action}."""
    track = MLflowRun._epoch

    def epoch(handler, engine):
        if engine.state.epoch in at:
            at[engine.state.epoch]()
        track(handler, engine)

    monkeypatch.setattr(MLflowRun, "_epoch", epoch)


@pytest.mark.slow
@pytest.mark.parametrize(("down_after", "up_after"), [(2, 4), (0, 2), (2, None)])
def test_a_run_is_the_same_whenever_its_server_was_down(
    mlflow_server, run_bundle, tmp_path, monkeypatch, caplog, down_after, up_after
):
    server = mlflow_server
    run_bundle("training", "train.json", epochs=EPOCHS, run_name="a", output_dir="whole")
    whole = contents(f"sqlite:///{tmp_path}/mlflow.db", read_facts(tmp_path / "whole" / "a")["mlflow_run_id"])
    if down_after > 0:
        server.start()
    acting(monkeypatch, {down_after: server.kill, up_after: server.start})
    options = {"epochs": EPOCHS, "run_name": "a", "output_dir": "runs", "mlflow#uri": server.uri}
    run_bundle("training", "train.json", **options)
    folder = tmp_path / "runs" / "a"
    assert caplog.text.count("MLflow does not answer, which holds up nothing") == 1
    assert (folder / "mlflow.journal").exists() == (up_after is None)
    assert read_facts(folder)["completed_epoch"] == EPOCHS
    if up_after is None:
        server.start()
        sync(output_dir=tmp_path / "runs")
    found = contents(server.uri, read_facts(folder)["mlflow_run_id"])
    params = {key: value for key, value in found.pop("params").items() if key != "output_dir"}
    assert params == {key: value for key, value in whole.pop("params").items() if key != "output_dir"}
    assert found == whole
    assert found["metrics"]["train/loss"][-1][0] == EPOCHS
    assert len(found["artifacts"]) > 5
    assert len(found["models"]) == 1
    assert not (folder / "mlflow.journal").exists()


TRAIN_AND_DIE = """
import json, os, signal, sys
from monai.bundle import ConfigWorkflow
from pipeline.handlers.mlflow_run import MLflowRun

track = MLflowRun._epoch

def epoch(handler, engine):
    track(handler, engine)
    if engine.state.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

MLflowRun._epoch = epoch
options = json.loads(sys.argv[2])
workflow = ConfigWorkflow(sys.argv[1], workflow_type="train", run_id="training", logging_file=False, **options)
workflow.initialize()
workflow.run()
"""


@pytest.mark.slow
def test_a_training_killed_while_its_server_was_down_is_written_closed_and_can_be_resumed(
    uri, run_bundle, tmp_path, discs
):
    options = {"epochs": EPOCHS, "run_name": "a", "mlflow#uri": absent(), "output_dir": str(tmp_path / "runs")}
    words = [UNET / "configs" / "train.json", json.dumps({**small_training(discs), **options})]
    result = Python("-c", TRAIN_AND_DIE, *words, cwd=tmp_path).wait()
    assert result.returncode == -signal.SIGKILL, result.stderr
    (done,) = sync(uri=uri, output_dir=tmp_path / "runs")
    assert done.status == "KILLED"
    found = contents(uri, done.run_id)
    assert found["status"] == "KILLED"
    assert [step for step, _ in found["metrics"]["train/loss"]] == [1, 2, 3]
    assert len(found["metrics"]["train/iteration_loss"]) % 3 == 0
    run_bundle("training", "train.json", **{**options, "mlflow#uri": uri}, resume=True)
    again = contents(uri, only_run(uri, "discs").info.run_id)
    assert again["status"] == "FINISHED"
    assert [step for step, _ in again["metrics"]["train/loss"]] == [1, 2, 3, 4, 5]
