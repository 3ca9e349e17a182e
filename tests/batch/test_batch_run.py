"""A batch is a run in MLflow where that is asked for, and is no worse off where no store can be had."""

import os
import shutil
import signal

import pytest
from mlflow.tracking import MlflowClient
from servers import absent

from pipeline.batch.batch_run import log_batch

SECONDS = {"read": 1.5, "forward": 20.0}


def test_a_run_has_params_times_and_the_table(empty_store, tmp_path, monkeypatch):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where a store of a file keeps artifacts
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "summary.csv").write_text("case,status\na,done\n")
    run_id = log_batch({"model": "m.pt", "precision": "float32", "cases": 3}, SECONDS, 22.0, "scans/summary.csv")
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "predictions"
    assert (run.info.run_name, run.info.status) == ("scans", "FINISHED")
    assert run.data.params == {"model": "m.pt", "precision": "float32", "cases": "3"}
    assert run.data.metrics == {
        **{"time/read": 1.5, "time/resample": 0, "time/forward": 20, "time/stitch": 0, "time/invert": 0},
        **{"time/write": 0, "time/batch": 22},
    }
    assert [file.path for file in client.list_artifacts(run_id)] == ["summary.csv"]


def test_a_store_that_does_not_answer_is_said_and_no_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", absent())
    assert log_batch({"cases": 1}, SECONDS, 1.0, tmp_path / "summary.csv") is None
    assert "no MLflow server answers" in caplog.text


def test_a_store_that_cannot_be_opened_is_said_and_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    assert log_batch({"cases": 1}, SECONDS, 1.0, tmp_path / "summary.csv") is None
    assert "the batch was not written to MLflow" in caplog.text


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", ["create_run", "log_artifact"])
def test_a_signal_leaves_no_run_running(step, which, empty_store, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    do = getattr(MlflowClient, step)

    def do_and_be_stopped(*arguments, **options):
        made = do(*arguments, **options)
        os.kill(os.getpid(), which)
        return made

    monkeypatch.setattr(MlflowClient, step, do_and_be_stopped)
    (tmp_path / "summary.csv").write_text("case,status\na,done\n")
    with pytest.raises(KeyboardInterrupt if which == signal.SIGINT else SystemExit):
        log_batch({"cases": 1}, SECONDS, 1.0, tmp_path / "summary.csv")
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("predictions").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
