"""A store, read: by experiment, filter, name and id, histories in samples, and never changed."""

import shutil
from itertools import pairwise

import pytest
from made_runs import DIGEST, made_run
from mlflow.entities import Metric

from pipeline.comparison import store as module
from pipeline.comparison.store import FINISHED, POINTS, TOP, Store
from pipeline.errors import InputError


def names(runs):
    return [run.name for run in runs]


def test_a_store_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="there is no such MLflow store"):
        Store()
    assert list(tmp_path.iterdir()) == []


def test_the_argument_comes_before_the_environment_and_that_before_the_working_directory(client, tmp_path, monkeypatch):
    assert Store().uri == f"sqlite:///{tmp_path}/mlflow.db"
    for name in ("of_environment.db", "of_argument.db"):
        shutil.copyfile(tmp_path / "mlflow.db", tmp_path / name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///of_environment.db")
    assert Store().uri == f"sqlite:///{tmp_path}/of_environment.db"
    assert Store("sqlite:///of_argument.db").uri == f"sqlite:///{tmp_path}/of_argument.db"


def test_a_server_that_does_not_answer_is_said(monkeypatch):
    monkeypatch.setattr(module, "answers", lambda uri: False)
    with pytest.raises(InputError, match="no MLflow server answers at http://nowhere:5000"):
        Store("http://nowhere:5000")


def test_a_run_as_it_was_written(client):
    parent = made_run(client, "cells", "parent")
    key = made_run(
        client, "cells", "child", {"a": 0.5, "b": 0.7}, "test", {"lr": 0.1}, {"evaluation": "test"}, parent=parent
    )
    store = Store()
    (run,) = store.search([store.experiment("cells")], "attributes.run_name = 'child'")
    assert (run.id, run.name, run.status, run.parent) == (key, "child", "FINISHED", parent)
    assert (run.evaluation, run.digest) == ("test", DIGEST)
    assert run.params == {"lr": "0.1"}
    assert run.metrics == {"test/mean_dice": pytest.approx(0.6)}
    assert run.start > 0
    assert run.artifact_uri.endswith(f"{key}/artifacts")


def test_experiments_by_name(client):
    made_run(client, "cells", "a")
    store = Store()
    assert store.experiments()[store.experiment("cells")] == "cells"
    with pytest.raises(InputError, match=r"no experiment 'cell' in sqlite.*did you mean cells"):
        store.experiment("cell")


def test_filter_order_and_how_many(client):
    sweep = made_run(client, "cells", "sweep")
    for number, score in enumerate((0.5, 0.9, 0.7)):
        made_run(client, "cells", f"trial {number}", {"a": score}, parent=sweep)
    made_run(client, "cells", "crashed", status="FAILED")
    store = Store()
    key = store.experiment("cells")
    assert set(names(store.search([key], TOP))) == {"sweep", "crashed"}
    assert "crashed" not in names(store.search([key], FINISHED))
    assert names(store.search([key], FINISHED, ["metrics.`best/mean_dice` DESC"], 2)) == ["trial 1", "trial 2"]
    assert store.search([], FINISHED) == [], "not all experiments"
    with pytest.raises(InputError, match=r"the MLflow store sqlite.* refuses: .*check --uri, --filter"):
        store.search([key], "nonsense")


def test_answers_come_page_by_page(client, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    for number in range(5):
        made_run(client, "cells", f"run {number}", {"a": 0.1 * number})
    store = Store()
    key, best = store.experiment("cells"), ["metrics.`best/mean_dice` DESC"]
    assert names(store.search([key], FINISHED, best)) == ["run 4", "run 3", "run 2", "run 1", "run 0"]
    assert names(store.search([key], FINISHED, best, 3)) == ["run 4", "run 3", "run 2"]


def test_a_place_that_is_no_store_is_said():
    with pytest.raises(InputError, match=r"the MLflow store no-such-store://here refuses: .*check --uri"):
        Store("no-such-store://here")


def test_runs_are_meant_by_name_id_or_beginning_of_an_id(client):
    ids = {name: made_run(client, "cells", name) for name in ("plain", "it's", "long")}
    store = Store()
    here = [store.experiment("cells")]
    found, notes = store.named(["it's", ids["long"], ids["plain"][:12], "plain"], here)
    assert names(found) == ["it's", "long", "plain"], "in the order of the words, each once"
    assert notes == []
    with pytest.raises(InputError, match=r"no run has the name or id 'plaim'.*did you mean plain"):
        store.named(["plaim"], here)


def test_of_runs_with_one_name_the_newest_counts_and_that_is_said(client):
    key = client.create_experiment("cells")
    old, new = (client.create_run(key, start_time=time, run_name="twin").info.run_id for time in (1000, 2000))
    found, notes = Store().named(["twin"], [key])
    assert [run.id for run in found] == [new] != [old]
    assert notes == [f"2 runs are called 'twin': the newest counts ({new[:8]})"]


def test_a_beginning_of_two_ids_is_refused(client, monkeypatch):
    key = client.create_experiment("cells")
    for end in "ab":
        monkeypatch.setattr("uuid.uuid4", lambda end=end: type("Made", (), {"hex": "feed" + end * 28}))
        client.create_run(key)
    monkeypatch.undo()
    store = Store(client.tracking_uri)
    with pytest.raises(InputError, match="the ids of several runs begin with 'feed'"):
        store.named(["feed"], [key])
    assert store.named(["feeda"], [key])[0][0].id == "feed" + "a" * 28


@pytest.fixture
def learning(client):
    """A store, a run with five epochs, one with three, one with none."""
    ids = [
        made_run(client, "cells", f"{count} epochs", history=[("dice", epoch, epoch / 10) for epoch in range(count)])
        for count in (5, 3, 0)
    ]
    return Store(), ids


def test_histories_of_the_runs_that_have_one(learning, monkeypatch):
    store, ids = learning
    expected = {
        ids[0]: [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)],
        ids[1]: [(0, 0.0), (1, 0.1), (2, 0.2)],
    }
    assert store.histories(ids, "val/dice") == expected
    monkeypatch.setattr(module, "AT_A_TIME", 1)
    assert store.histories(ids, "val/dice") == expected
    assert store.histories(ids, "val/other") == {}
    assert store.histories([], "val/dice") == {}


def test_a_long_history_is_sampled_evenly_with_both_ends(client):
    key = made_run(client, "cells", "long")
    count = 3 * POINTS
    for start in range(0, count, POINTS):
        steps = range(start, start + POINTS)
        client.log_batch(key, [Metric("val/dice", step / count, 0, step) for step in steps])
    points = Store().histories([key], "val/dice")[key]
    steps = [step for step, _ in points]
    assert POINTS / 2 <= len(points) <= POINTS + 2
    assert (steps[0], steps[-1]) == (0, count - 1)
    gaps = [later - step for step, later in pairwise(steps)]
    assert max(gaps) <= 2 * count / POINTS, "no gap is more than two even ones"
    assert all(value == pytest.approx(step / count) for step, value in points)


class Answer:
    def __init__(self, status_code, points=()):
        self.status_code, self.points = status_code, points

    def json(self):
        return {"metrics": self.points}


@pytest.mark.parametrize("is_old", [False, True], ids=["samples", "a server without samples"])
def test_histories_of_a_server(learning, monkeypatch, is_old):
    store, (first, *_) = learning
    store.uri = "http://server"
    asked = []

    def request(creds, endpoint, method, params, raise_on_status):
        asked.append((endpoint.rsplit("/", 1)[-1], params))
        points = [{"run_id": first, "step": "7", "value": 0.25}, {"run_id": first, "value": 0.125}]
        return Answer(404) if is_old else Answer(200, points)

    monkeypatch.setattr(module, "http_request", request)
    whole = [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert store.histories([first], "val/dice") == {first: whole if is_old else [(0, 0.125), (7, 0.25)]}
    question = {"run_ids": [first], "metric_key": "val/dice", "max_results": POINTS}
    assert asked == [("get-history-bulk-interval", question)]
