"""Entries of a journal become what they say in a store, once."""

import pytest
from mlflow.tracking import MlflowClient

from pipeline.errors import InputError
from pipeline.mlflow_store import open_store
from pipeline.mlflow_writer import MLflowWriter


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    made = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(made, "tests")
    return made


def opening(key):
    return {
        "kind": "open",
        "experiment": "tests",
        "name": "a run",
        "tags": {"colour": "blue"},
        "params": {"lr": "0.1"},
        "key": key,
        "time": 1000,
    }


def metrics(step, time, **values):
    return {"kind": "metrics", "step": step, "time": time, "values": values}


def history(uri, run_id, name):
    return [(metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run_id, name)]


def test_a_run_is_opened_once_however_often_it_is_said(uri, tmp_path):
    first = MLflowWriter(uri, tmp_path).write([opening("once")])
    assert first["uri"] == uri
    assert MLflowWriter(uri, tmp_path).write([opening("once")])["run_id"] == first["run_id"]
    assert MLflowWriter(uri, tmp_path).write([opening("another")])["run_id"] != first["run_id"]
    run = MlflowClient(uri).get_run(first["run_id"])
    assert (run.info.run_name, run.data.params, run.data.tags["colour"]) == ("a run", {"lr": "0.1"}, "blue")


def test_a_metric_is_logged_at_ascending_steps(uri, tmp_path):
    writer = MLflowWriter(uri, tmp_path)
    run_id = writer.write([opening("steps")])["run_id"]
    writer.write([metrics(1, 10, loss=3.0), metrics(2, 20, loss=2.0), metrics(2, 20, loss=9.0)])
    again = MLflowWriter(uri, tmp_path, run_id)  # after a kill: what stands in the store is not said twice
    again.write([metrics(2, 20, loss=2.0), metrics(3, 30, loss=1.0)])
    assert history(uri, run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_looks_at_the_system_are_numbered_on_by_their_time(uri, tmp_path):
    writer = MLflowWriter(uri, tmp_path)
    run_id = writer.write([opening("system")])["run_id"]
    writer.write([metrics(0, 10, **{"system/cpu": 1.0}), metrics(1, 20, **{"system/cpu": 2.0})])
    resumed = MLflowWriter(uri, tmp_path, run_id)  # whose own count begins at 0
    resumed.write([metrics(1, 20, **{"system/cpu": 2.0}), metrics(0, 30, **{"system/cpu": 3.0})])
    assert history(uri, run_id, "system/cpu") == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_tags_artifacts_and_the_end(uri, tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    writer = MLflowWriter(uri, tmp_path)
    run_id = writer.write([opening("end")])["run_id"]
    writer.write([{"kind": "tags", "tags": {"best": "7"}}])
    writer.write([{"kind": "artifact", "path": "scores.json", "folder": "evaluation"}])
    writer.write([{"kind": "end", "status": "KILLED", "time": 5000}])
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.tags["best"]) == ("KILLED", 5000, "7")
    assert [file.path for file in client.list_artifacts(run_id, "evaluation")] == ["evaluation/scores.json"]


def test_without_an_opening_there_is_no_run_to_write_to(uri, tmp_path):
    with pytest.raises(InputError, match="no entry says which run"):
        MLflowWriter(uri, tmp_path).write([metrics(1, 10, loss=1.0)])


def test_a_server_that_is_away_is_said_at_once(tmp_path):
    with pytest.raises(ConnectionError, match="no MLflow server answers"):
        MLflowWriter("http://127.0.0.1:9", tmp_path).write([opening("away")])
