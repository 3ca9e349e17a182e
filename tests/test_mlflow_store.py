"""A run is opened in any store, or training goes on without one; no run is left RUNNING."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from forked import Python
from mlflow.tracking import MlflowClient
from servers import absent, running, silent

from pipeline import mlflow_store
from pipeline.errors import InputError
from pipeline.mlflow_store import PARENT, Opening, answers, end_abandoned_runs, open_now, open_run, open_store
from pipeline.tracking import Tracking

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


@pytest.fixture(scope="module")
def made_store(tmp_path_factory):
    """A store whose tables exist, for tests that are not about making them (which takes seconds)."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri, "tests")
    return uri


def opened(uri, run_id=None, tags=(), **params):
    return open_run(uri, "tests", "a", dict(tags), run_id, params)


@pytest.mark.slow
def test_two_processes_that_start_at_once_on_a_new_store_have_a_run_each(tmp_path):
    uri, begin = f"sqlite:///{tmp_path}/mlflow.db", str(time.time() + 3)  # longer than the imports take
    processes = [Python("-c", START_ONE, uri, name, begin, cwd=tmp_path) for name in ("first", "second")]
    ended = [process.wait() for process in processes]
    assert [process.returncode for process in ended] == [0, 0], ended
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert set(runs) == {"first", "second"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.params == {"name": name}
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 20


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
    living = opened(made_store)
    opened(made_store)
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(living.run_id).info.status == "RUNNING"  # a run of a living process is left alone


def test_the_runs_process_is_told_apart_from_a_later_one_with_its_number(made_store):
    client, experiment = open_store(made_store, "tests")
    tags = {"host": os.uname().nodename, "pid": str(os.getpid()), "pid.started": "1.0"}
    run = client.create_run(experiment, tags=tags)
    end_abandoned_runs(client, experiment)
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_a_run_opened_again_forgets_its_error_and_says_which_params_changed(made_store):
    first = opened(made_store, rate="0.1", decay="0", patience="3")
    first.client.set_tag(first.run_id, "error", "OutOfMemoryError")
    first.client.set_terminated(first.run_id, "FAILED")
    again = opened(made_store, first.run_id, {"device": "cuda"}, rate="0.2", decay="0", clip="1")
    assert again.run_id == first.run_id
    run = again.client.get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert "error" not in run.data.tags
    assert run.data.tags["device"] == "cuda"
    assert run.data.params == {"rate": "0.1", "decay": "0", "patience": "3"}
    changed = {key: value for key, value in run.data.tags.items() if key.startswith("resumed.")}
    assert changed == {"resumed.rate": "0.2", "resumed.clip": "1", "resumed.patience": "None"}
    opened(made_store, first.run_id, rate="0.1", decay="0", clip="1")
    tags = again.client.get_run(first.run_id).data.tags
    assert tags["resumed.rate"] == "0.1", "back again"
    assert tags["resumed.patience"] == "None"


def test_a_run_that_the_store_does_not_know_is_a_new_one(made_store):
    found = opened(made_store, "0" * 32, rate="1")
    assert found.client.get_run(found.run_id).data.params == {"rate": "1"}


def opened_by_key(uri, key, tags=(), **params):
    return open_now(uri, Opening("tests", key, dict(tags), params, key))


@pytest.mark.parametrize("order", [("above", "below"), ("below", "above")])
def test_a_run_and_the_one_above_it_find_each_other_whichever_comes_first(made_store, order):
    keys = {name: f"{name} in {'-'.join(order)}" for name in order}
    tags = {"above": {}, "below": {PARENT: keys["above"]}}
    ids = {name: opened_by_key(made_store, keys[name], tags[name]).run_id for name in order}
    client = MlflowClient(made_store)
    assert client.get_run(ids["below"]).data.tags["mlflow.parentRunId"] == ids["above"]
    assert "mlflow.parentRunId" not in client.get_run(ids["above"]).data.tags


def test_a_run_is_found_again_by_its_key(made_store):
    first = opened_by_key(made_store, "known", trials="2")
    first.client.set_terminated(first.run_id, "KILLED")
    again = opened_by_key(made_store, "known", trials="3", folds="[]")
    assert again.run_id == first.run_id
    run = again.client.get_run(first.run_id)
    assert (run.info.status, run.data.tags["resumed.trials"]) == ("RUNNING", "3")
    assert run.data.params == {"trials": "2", "folds": "[]"}, "what a killed opening had not come to is written"


def test_a_file_that_cannot_be_opened_is_an_error_of_one_line(tmp_path):
    with pytest.raises(InputError, match=r"refuses: .*Remedy: check mlflow#uri") as caught:
        opened(f"file:{tmp_path}")  # a kind of store that MLflow no longer has
    assert "\n" not in str(caught.value)


def seconds_without_a_run(uri):
    begin = time.monotonic()
    assert opened(uri) is None
    return time.monotonic() - begin


def test_where_nothing_listens_there_is_no_run_at_once():
    assert seconds_without_a_run(absent()) < 20


def test_a_server_that_takes_connections_and_never_answers_is_left_within_ten_seconds():
    with silent() as uri:
        assert seconds_without_a_run(uri) < 10


def test_a_server_that_answers_but_opens_no_run_is_left_too(monkeypatch):
    monkeypatch.setattr(mlflow_store, "OPEN_WITHIN", 1)
    with running() as server:
        server.sleeps_but_for = "/health"
        server.awake.clear()
        assert seconds_without_a_run(server.uri) < 5
        server.awake.set()  # and what it opens when nobody waits any more, is ended
        deadline = time.monotonic() + 20
        while not server.sent("runs/update") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [body["status"] for body in server.sent("runs/update")] == ["KILLED"]


def test_a_server_that_refuses_costs_the_tracking_and_not_the_training(caplog):
    with running() as server:
        server.status = 403
        assert opened(server.uri) is None
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]
    assert said.startswith(f"the MLflow server at {server.uri} refuses, this run is not tracked: ")


def test_a_server_in_trouble_does_not_count_as_one_that_answers():
    with running() as server:
        assert answers(server.uri)
        server.status = 503
        assert not answers(server.uri)
        server.status = 401  # there is a server, and it will say itself what it misses
        assert answers(server.uri)


def test_a_server_that_answers_has_a_run():
    with running() as server:
        tracking = Tracking(server.uri, "tests", system_metrics_every=0)
        assert tracking.start("a", {}, params={"rate": 1}) == "abc"
        tracking.metrics({"loss": 0.5}, 1)
        assert tracking.end()
        assert server.steps("loss") == [1]
        assert [body["status"] for body in server.sent("runs/update")] == ["FINISHED"]
