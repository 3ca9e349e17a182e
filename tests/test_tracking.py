"""MLflow runs stay apart, end as they ended, lose or repeat no metric, and hold up nobody."""

import os
import signal
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient
from servers import absent, running

from pipeline.mlflow_store import open_store
from pipeline.tracking import Tracking


@pytest.fixture(scope="module")
def made_store(tmp_path_factory):
    """A store whose tables exist, which takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri, "tests")
    return uri


def track(uri, **options):
    return Tracking(uri, "tests", **{"system_metrics_every": 0, **options})


def settings_of_mlflow():
    return {key: value for key, value in os.environ.items() if key.startswith("MLFLOW")}


def test_a_resumed_run_is_the_same_run_and_repeats_no_step(made_store):
    first = track(made_store)
    run_id = first.start("resumed", {}, params={"a": 1})
    for step in range(5):
        first.metrics({"loss": step}, step)
    assert first.end("KILLED")
    again = track(made_store)
    assert again.start("resumed", {}, run_id=run_id, params={"a": 2}) == run_id
    for step in range(3, 8):  # steps 3 and 4 came after the last checkpoint, and are trained once more
        again.metrics({"loss": step}, step)
    assert again.end()
    client = MlflowClient(made_store)
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "loss")) == list(range(8))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"a": "1"}
    assert client.get_run(run_id).data.tags["resumed.a"] == "2"


LOG_AND_DIE = """
import os, signal, sys
from pipeline.tracking import Tracking
tracking = Tracking(sys.argv[1], "tests", system_metrics_every=0)
print(tracking.start("killed", {}), flush=True)
for step in range(1, 8):
    tracking.metrics({"loss": step}, step)
    if step == 5:
        tracking.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_flushed_survives_a_kill(made_store):
    result = subprocess.run(
        [sys.executable, "-c", LOG_AND_DIE, made_store], capture_output=True, text=True, check=False
    )
    assert result.returncode == -signal.SIGKILL
    steps = {metric.step for metric in MlflowClient(made_store).get_metric_history(result.stdout.strip(), "loss")}
    assert steps >= {1, 2, 3, 4, 5}


def test_values_too_long_for_mlflow_are_cut_and_many_params_fit(made_store):
    tracking = track(made_store)
    run_id = tracking.start("params", {}, params={"long": "x" * 10_000} | {f"p/{n}": n for n in range(250)})
    tracking.end()
    params = MlflowClient(made_store).get_run(run_id).data.params
    assert len(params) == 251
    assert params["long"] == "x" * 6000


def test_artifacts_and_tags_are_there_when_the_run_has_ended(made_store, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    tracking = track(made_store)
    run_id = tracking.start("artifacts", {})
    tracking.artifact(tmp_path / "folder", "kept")
    tracking.artifact(tmp_path / "b.txt", "kept")
    tracking.tag(colour="blue")
    assert tracking.end()
    client = MlflowClient(made_store)
    assert {file.path for file in client.list_artifacts(run_id, "kept")} == {"kept/a.txt", "kept/b.txt"}
    assert client.get_run(run_id).data.tags["colour"] == "blue"


def test_a_short_run_has_system_metrics_and_a_resumed_one_counts_on(made_store):
    first = track(made_store, system_metrics_every=600)
    run_id = first.start("short", {})
    first.end()
    again = track(made_store, system_metrics_every=600)
    again.start("short", {}, run_id=run_id)
    again.end()
    history = MlflowClient(made_store).get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert sorted(metric.step for metric in history) == [0, 1, 2, 3]


def test_without_a_server_training_goes_on_after_one_line(caplog, tmp_path):
    uri = absent()
    tracking = Tracking(uri, system_metrics_every=0)
    assert tracking.start("nobody listens", {}) is None
    for epoch in range(5):
        tracking.metrics({"loss": 1.0}, epoch)
        tracking.flush()
    tracking.tag(a="b")
    tracking.artifact(tmp_path)
    assert tracking.end(), "nothing was begun, so nothing is missing"
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]
    assert said == f"no MLflow server answers at {uri}: this run is not tracked"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["goes away", "falls silent"])
def test_a_server_that_dies_in_the_middle_holds_up_nobody(way, caplog):
    before = settings_of_mlflow()
    with running() as server:
        tracking = track(server.uri, system_metrics_every=600)
        tracking.start("a", {})
        tracking.metrics({"loss": 0.5}, 0)
        tracking.flush()
        if way == "falls silent":
            server.awake.clear()
        else:
            server.shutdown()
            server.server_close()
        begin = time.monotonic()
        for step in range(1, 1001):
            tracking.metrics({"loss": 0.5}, step)
            if step % 100 == 0:
                tracking.flush()
        assert time.monotonic() - begin < 30, "one flush waits five seconds, the next nine know better"
        begin = time.monotonic()
        assert not tracking.end()
        assert time.monotonic() - begin < 60
        assert server.steps("loss") == [0]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]
    assert len(said) == 2, said
    assert "does not answer; training goes on" in said[0]
    # A thousand losses, the end, and what the system was doing then.
    assert int(said[1].split()[0]) > 1000
    assert f"entries of this run were not written to MLflow at {server.uri}" in said[1]
    assert settings_of_mlflow() == before


def test_a_server_that_comes_back_gets_everything_once(caplog):
    with running() as server:
        tracking = track(server.uri)
        tracking.start("a", {})
        server.awake.clear()
        for step in range(50):
            tracking.metrics({"loss": 0.5}, step)
        time.sleep(1.5)
        server.awake.set()
        assert tracking.end()
        assert server.steps("loss") == list(range(50))


def test_a_run_told_to_stop_says_its_last_words_to_a_server_or_leaves(monkeypatch):
    monkeypatch.setattr("pipeline.tracking.KILLED_WITHIN", 1)
    with running() as server:
        tracking = track(server.uri)
        tracking.start("a", {})
        server.sleeps_but_for = "/health"
        server.awake.clear()
        begin = time.monotonic()
        assert not tracking.end("KILLED")
        assert time.monotonic() - begin < 10


def test_the_default_store_is_where_mlflow_ui_looks(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking().uri == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example:5000")
    assert Tracking().uri == "http://example:5000"
    assert Tracking("sqlite:///other.db").uri == "sqlite:///other.db"
