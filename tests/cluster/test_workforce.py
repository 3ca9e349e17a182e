"""Which workers are used, and what is said of those that are not."""

import logging
from functools import partial

import pytest
import worker_tasks

from pipeline.cluster.tasks import run_on
from pipeline.cluster.workforce import Workforce
from pipeline.errors import InputError


def test_workers_that_see_nothing_are_an_error_that_names_them_and_the_remedy(client, caplog):
    with Workforce(client, worker_tasks.see_nothing) as workforce, pytest.raises(InputError) as caught:
        workforce.first()
    assert "the workers at tcp://127.0.0.1 cannot be used: they do not see it" in str(caught.value)
    assert caught.value.file == "/scans"
    assert caught.value.remedy == "mount it"
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1, "once, though there are two"


def test_one_that_sees_nothing_leaves_the_work_to_the_others(client, tmp_path, caplog):
    with Workforce(client, partial(worker_tasks.is_second, str(tmp_path))) as workforce:
        assert workforce.first() == "second"
        items = iter(range(10))
        done = [one.value for one in run_on(workforce, worker_tasks.double, lambda: next(items, None))]
        assert sorted(done) == [2 * number for number in range(10)]
        assert len(workforce.workers) == 1
    assert "cannot be used: they do not see it" in caplog.text


def test_those_that_differ_from_the_first_are_refused_by_a_judge(client, caplog):
    def judge(facts, first):
        if facts != first:
            raise InputError("they compute otherwise")

    with Workforce(client, worker_tasks.address, judge) as workforce:
        first = workforce.first()
        items = iter(range(20))
        assert len(list(run_on(workforce, worker_tasks.double, lambda: next(items, None)))) == 20
        while "they compute otherwise" not in caplog.text:
            workforce.wait()
        assert [worker.facts for worker in workforce.workers.values()] == [first]


def test_a_worker_that_lacks_the_package_is_told_so(client):
    def not_there():
        raise ModuleNotFoundError("No module named 'pipeline'")

    with (
        Workforce(client, not_there) as workforce,
        pytest.raises(InputError, match=r"does not run there .*No module named 'pipeline'.*same environment"),
    ):
        workforce.first()


def test_workers_that_die_before_their_first_task_are_no_endless_story(client):
    with Workforce(client, worker_tasks.die) as workforce, pytest.raises(InputError) as caught:
        workforce.first()
    assert "3 workers in a row were killed before they came to a first task" in str(caught.value)
    assert "memory" in caught.value.remedy


def test_how_long_to_wait_can_be_said_in_the_environment(client, monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKERS_WITHIN", "7.5")
    with Workforce(client, patience=1) as workforce:
        assert workforce.patience == 7.5


def test_a_look_that_shows_nobody_is_no_death(client, monkeypatch):
    """What Dask's client remembers of the workers may be empty, for a periodic call of its own asks for none."""
    monkeypatch.setattr("pipeline.cluster.workforce.LOOK_EVERY", 0.05)
    monkeypatch.setattr(client, "_scheduler_identity", {"workers": {}})
    monkeypatch.setattr(client, "scheduler_info", lambda **_: {"workers": {}})
    with Workforce(client) as workforce:
        workforce.first()
        assert [event for event in (workforce.wait() for _ in range(20)) if event is not None] == []
        assert len(workforce.workers) == 2


def test_one_that_is_missing_twice_has_left(client, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.workforce.LOOK_EVERY", 0.05)
    with Workforce(client) as workforce:
        workforce.first()
        while len(workforce.workers) < 2:
            workforce.wait()
        gone = next(iter(workforce.workers))
        monkeypatch.setattr(workforce, "_present", lambda: workforce.workers.keys() - {gone})
        events = [event for event in (workforce.wait() for _ in range(30)) if event is not None]
        assert [(event.kind, event.what.address) for event in events] == [("left", gone)]
