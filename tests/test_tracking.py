"""MLflow runs stay apart, end as they ended, and lose or repeat no metric."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.tracking import Tracking, _Feeder, end_abandoned_runs, open_store

START_ONE = """
import sys, time
from pipeline.tracking import Tracking
uri, name, until = sys.argv[1:]
time.sleep(max(0, float(until) - time.time()))  # both begin at the same moment
tracking = Tracking(uri, "shared", system_metrics_every=0)
tracking.start(name, {"who": name}, params={"name": name})
for step in range(20):
    tracking.metrics({"loss": step}, step)
tracking.end()
"""


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="module")
def made_store(tmp_path_factory):
    """A store whose tables exist, for tests that are not about making them (which takes seconds)."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri, "tests")
    return uri


def track(uri, **options):
    return Tracking(uri, "tests", system_metrics_every=0, **options)


def runs_of(uri, experiment):
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_two_processes_that_start_at_once_on_a_new_store_have_a_run_each(uri):
    begin = str(time.time() + 8)  # longer than the imports take
    commands = [[sys.executable, "-c", START_ONE, uri, name, begin] for name in ("first", "second")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    runs = {run.info.run_name: run for run in runs_of(uri, "shared")}
    assert set(runs) == {"first", "second"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.params == {"name": name}
        assert len(MlflowClient(uri).get_metric_history(run.info.run_id, "loss")) == 20


def test_a_resumed_run_is_the_same_run_and_repeats_no_step(made_store):
    first = track(made_store)
    run_id = first.start("resumed", {}, params={"a": 1})
    for step in range(5):
        first.metrics({"loss": step}, step)
    first.end("KILLED")
    again = track(made_store)
    assert again.start("resumed", {}, run_id=run_id, params={"a": 2}) == run_id
    for step in range(3, 8):  # steps 3 and 4 came after the last checkpoint, and are trained once more
        again.metrics({"loss": step}, step)
    again.end()
    client = MlflowClient(made_store)
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "loss")) == list(range(8))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"a": "1"}


def test_a_killed_process_does_not_leave_its_run_running(made_store):
    script = textwrap.dedent("""
        import sys, time
        from pipeline.tracking import Tracking
        print(Tracking(sys.argv[1], "tests", system_metrics_every=0).start("killed", {}), flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, made_store], stdout=subprocess.PIPE, text=True)
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    client = MlflowClient(made_store)
    assert client.get_run(run_id).info.status == "RUNNING"  # nobody could say otherwise yet
    living = track(made_store)
    living_id = living.start("next", {})
    third = track(made_store)
    third.start("third", {})
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(living_id).info.status == "RUNNING"  # a run of a living process is left alone
    living.end()
    third.end()


def test_values_too_long_for_mlflow_are_cut_and_many_params_fit(made_store):
    tracking = track(made_store)
    run_id = tracking.start("params", {}, params={"long": "x" * 10_000} | {f"p/{n}": n for n in range(250)})
    tracking.end()
    params = MlflowClient(made_store).get_run(run_id).data.params
    assert len(params) == 251
    assert params["long"] == "x" * 6000


def test_without_a_server_training_goes_on(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = Tracking("http://127.0.0.1:9", system_metrics_every=0)
    assert tracking.start("nobody listens", {}) is None
    tracking.metrics({"loss": 1.0}, 1)
    tracking.tag(a="b")
    tracking.text("x", "x.txt")
    tracking.end()
    assert "not tracked" in caplog.text


def test_a_store_that_refuses_raises(tmp_path):
    with pytest.raises(MlflowException):
        Tracking(f"file:{tmp_path}", system_metrics_every=0).start("a store that MLflow no longer has", {})


def test_metrics_wait_for_a_store_that_does_not_answer_and_arrive_once():
    written, refusals = [], iter([True, True, False, False])

    def write(metrics):
        if next(refusals, False):
            raise MlflowException("locked")
        written.extend(metrics)

    feeder = _Feeder(write, every=0.01)
    for number in range(5):
        feeder.put(number)
    time.sleep(0.2)
    feeder.close()
    assert written == [0, 1, 2, 3, 4]


def test_the_default_store_is_where_mlflow_ui_looks(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking().uri == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example:5000")
    assert Tracking().uri == "http://example:5000"
    assert Tracking("sqlite:///other.db").uri == "sqlite:///other.db"


def test_the_runs_process_is_told_apart_from_a_later_one_with_its_number(made_store):
    client, experiment = open_store(made_store, "tests")
    tags = {"host": os.uname().nodename, "pid": str(os.getpid()), "pid.started": "1.0"}
    run = client.create_run(experiment, tags=tags)
    end_abandoned_runs(client, experiment)
    assert client.get_run(run.info.run_id).info.status == "KILLED"
