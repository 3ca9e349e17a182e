"""MLflow runs stay apart, end as they ended, lose or repeat nothing, and hold up nobody."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from forked import Python
from mlflow.tracking import MlflowClient
from servers import absent, running

from pipeline.errors import InputError
from pipeline.feeder import Feeder
from pipeline.mlflow_store import open_store
from pipeline.mlflow_writer import MLflowWriter
from pipeline.tracking import Tracking

SYNC = "python -m pipeline sync"


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


def test_what_was_flushed_survives_a_kill(made_store, tmp_path):
    result = Python("-c", LOG_AND_DIE, made_store, cwd=tmp_path).wait()
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


def test_without_a_server_and_without_a_folder_training_goes_on_after_one_line(caplog, tmp_path):
    uri = absent()
    tracking = Tracking(uri, system_metrics_every=0)
    assert tracking.start("nobody listens", {}) is None
    for epoch in range(5):
        tracking.metrics({"loss": 1.0}, epoch)
        tracking.flush()
    tracking.tag(a="b")
    tracking.artifact(tmp_path)
    assert not tracking.is_on
    assert tracking.end(), "nothing was begun, so nothing is missing"
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]
    assert said == f"no MLflow server answers at {uri}: this run is not tracked"


def journal_of(folder):
    return [json.loads(line) for line in (folder / "mlflow.journal").read_text().splitlines()]


def test_without_a_server_a_run_with_a_folder_is_kept_there(caplog, tmp_path):
    uri, begin = absent(), time.monotonic()
    tracking = Tracking(uri, "tests", system_metrics_every=0)
    (tmp_path / "kept.txt").write_text("a")
    assert tracking.start("a", {"colour": "blue"}, params={"rate": 0.1}, folder=tmp_path) is None
    assert time.monotonic() - begin < 10
    assert tracking.is_on
    for epoch in range(3):
        tracking.metrics({"loss": 0.5}, epoch)
        tracking.flush()
    tracking.artifact(tmp_path / "kept.txt", "here")
    assert tracking.end(), "nothing is lost"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]
    assert len(said) == 2, said
    assert f"waits in {tmp_path}/mlflow.journal: no MLflow server answers at {uri}" in said[0]
    assert said[1].endswith(f"lacks 6 entries of this run, which wait in its folder; to write them: {SYNC} {tmp_path}")
    opening, *rest = journal_of(tmp_path)
    assert (opening["name"], opening["experiment"], opening["params"]) == ("a", "tests", {"rate": "0.1"})
    assert opening["tags"].items() >= {"colour": "blue", "pid": str(os.getpid())}.items()
    assert [entry["kind"] for entry in rest] == ["metrics", "metrics", "metrics", "artifact", "end"]
    assert [entry["step"] for entry in rest[:3]] == [0, 1, 2]
    assert (rest[3]["path"], rest[3]["folder"], rest[4]["status"]) == ("kept.txt", "here", "FINISHED")


def test_a_run_with_a_folder_leaves_no_journal_there_once_the_store_has_all(made_store, tmp_path):
    tracking = track(made_store)
    run_id = tracking.start("a", {}, folder=tmp_path)
    tracking.metrics({"loss": 0.5}, 1)
    assert (tmp_path / "mlflow.journal").is_file()
    assert tracking.end()
    assert list(tmp_path.iterdir()) == []
    assert MlflowClient(made_store).get_run(run_id).info.status == "FINISHED"


def test_a_server_that_comes_up_later_opens_the_run_then_and_gets_everything_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.OPEN_WITHIN", 0.5)
    with running() as server:
        server.awake.clear()
        tracking = track(server.uri)
        assert tracking.start("a", {}, folder=tmp_path) is None
        for step in range(5):
            tracking.metrics({"loss": 0.5}, step)
        server.awake.set()
        deadline = time.monotonic() + 30
        while tracking.run_id is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert tracking.run_id == "abc"
        assert tracking.end()
        assert server.steps("loss") == [0, 1, 2, 3, 4]
        names = [name for name, _ in server.calls if name != "/health"]
        assert names.index("runs/create") < names.index("runs/log-batch") < names.index("runs/update")
    assert not (tmp_path / "mlflow.journal").exists()


def killed_at(folder, uri):
    """Let a tracked process be killed after five metrics, of which its store may have none."""
    script = LOG_AND_DIE.replace('"killed", {}', '"killed", {}, folder=pathlib.Path(sys.argv[2])')
    result = Python("-c", script.replace("import os", "import pathlib, os"), uri, folder, cwd=folder).wait()
    assert result.returncode == -signal.SIGKILL, result.stderr


def test_a_resumed_run_writes_what_a_killed_one_could_not(made_store, tmp_path):
    killed_at(tmp_path, absent())
    again = track(made_store)
    run_id = again.start("killed", {}, folder=tmp_path, resume=True)
    for step in range(4, 10):  # from a checkpoint after 3
        again.metrics({"loss": step}, step)
    assert again.end()
    client = MlflowClient(made_store)
    found = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]
    assert sorted(found) == [(step, step) for step in range(1, 10)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_begins_anew_does_not_get_what_an_earlier_one_left(made_store, tmp_path):
    killed_at(tmp_path, absent())
    again = track(made_store)
    run_id = again.start("again", {}, folder=tmp_path)
    again.metrics({"loss": 0.5}, 1)
    assert again.end()
    history = MlflowClient(made_store).get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5)]
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow-1.journal"]


def test_what_waits_for_one_store_is_not_given_to_another(made_store, tmp_path):
    with running() as server:
        first = track(server.uri)
        first.start("a", {}, folder=tmp_path)
        server.shutdown()
        server.server_close()
        first.metrics({"loss": 0.5}, 1)
        assert first.end()
    again = track(made_store)
    run_id = again.start("a", {}, folder=tmp_path, resume=True)
    again.metrics({"loss": 0.5}, 2)
    assert again.end()
    assert [metric.step for metric in MlflowClient(made_store).get_metric_history(run_id, "loss")] == [2]
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow-1.journal"]


def test_a_store_that_refuses_at_the_start_leaves_no_journal(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="refuses") as caught:
        track(f"file:{tmp_path}").start("a", {}, folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_data_list_stands_among_the_runs_inputs_once(made_store, tmp_path):
    tags = {"data_list": "data_lists/cells.json", "data_list.digest": "0123456789abcdef" * 4}
    first = track(made_store)
    run_id = first.start("a", tags, folder=tmp_path)
    first.end("KILLED")
    again = track(made_store)
    again.start("a", {**tags, "evaluation": "test"}, run_id=run_id, folder=tmp_path, resume=True)
    again.end()
    (data,) = MlflowClient(made_store).get_run(run_id).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("cells", "0123456789abcdef" * 2)
    assert json.loads(data.dataset.source) == {"uri": str(Path("data_lists/cells.json").absolute())}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


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
    assert "does not answer, which holds up nothing" in said[0]
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


def told_to_stop_while_it_ends(server, folder, monkeypatch):
    """Let a run be told to stop by SIGTERM, which raises, when the server is at work on its last words."""
    tracking, close = track(server.uri), Feeder.close
    tracking.start("a", {}, folder=folder)

    def close_and_be_stopped(feeder, is_worth_waiting, look_every=0.1):
        monkeypatch.setattr(Feeder, "close", close)
        raise SystemExit(143)

    monkeypatch.setattr(Feeder, "close", close_and_be_stopped)
    with pytest.raises(SystemExit, match="143"):
        tracking.end()
    assert tracking.end("KILLED"), "the handler of the crash has nothing left to do"


def test_a_run_told_to_stop_while_it_ends_is_closed_all_the_same(tmp_path, monkeypatch):
    with running() as server:
        told_to_stop_while_it_ends(server, tmp_path, monkeypatch)
        assert [body["status"] for body in server.sent("runs/update")] == ["FINISHED"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_a_run_told_to_stop_while_it_ends_waits_and_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.tracking.KILLED_WITHIN", 0.1)
    with running() as server:
        monkeypatch.setattr(MLflowWriter, "_end", lambda *arguments: time.sleep(3))
        told_to_stop_while_it_ends(server, tmp_path, monkeypatch)
    assert f"lacks 1 entries of this run, which wait in its folder; to write them: {SYNC} {tmp_path}" in caplog.text
    assert (tmp_path / "mlflow.journal").is_file()


def test_the_default_store_is_where_mlflow_ui_looks(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking().uri == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example:5000")
    assert Tracking().uri == "http://example:5000"
    assert Tracking("sqlite:///other.db").uri == "sqlite:///other.db"


def test_a_stopped_run_is_closed_at_once_though_an_entry_before_its_end_takes_too_long(
    made_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.tracking.KILLED_WITHIN", 0.1)
    monkeypatch.setattr(Feeder.close, "__defaults__", (0.05,))
    waits, go_on = MLflowWriter._tags, threading.Event()

    def wait(writer, run, content):
        go_on.wait(30)
        waits(writer, run, content)

    monkeypatch.setattr(MLflowWriter, "_tags", wait)
    run = track(made_store)
    run_id = run.start("stopped", {}, folder=tmp_path)
    run.tag(slow="as the model of a large network")
    assert run.end("KILLED"), "the rest waits in the folder"
    assert MlflowClient(made_store).get_run(run_id).info.status == "KILLED"
    go_on.set()
    monkeypatch.undo()
    again = track(made_store)
    assert again.start("stopped", {}, folder=tmp_path, resume=True) == run_id
    assert again.end()
    found = MlflowClient(made_store).get_run(run_id)
    assert (found.info.status, found.data.tags["slow"]) == ("FINISHED", "as the model of a large network")
