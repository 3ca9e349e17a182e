"""With real schedulers and workers: nothing is lost, nothing is done for ever, and only the guilty are given up."""

import os
import signal
import time
from functools import partial

import pytest
import worker_tasks
from dask_processes import scheduler, wait_until, worker
from distributed import Client
from worker_tasks import starts

from pipeline.cluster.tasks import WorkerDiedError, run_on, run_tasks
from pipeline.cluster.workforce import Workforce
from pipeline.errors import InputError


def innocents(folder, count, seconds=0.05):
    return [(str(folder), f"innocent {number}", 0, seconds) for number in range(count)]


def test_each_item_comes_back_once_with_its_value(client):
    ended = list(run_tasks(client, worker_tasks.double, range(50), at_once=2))
    assert sorted((one.item, one.value, one.error) for one in ended) == [(item, 2 * item, None) for item in range(50)]


def test_items_are_taken_as_workers_come_free(client):
    taken, ended, most = 0, 0, 0

    def items():
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    for _ in run_tasks(client, worker_tasks.double, items(), at_once=2):
        ended += 1
        most = max(most, taken - ended)
    assert ended == 40
    assert most <= 2 * 2


def test_an_error_is_an_answer_and_not_tried_again(client):
    ended = {one.item: one for one in run_tasks(client, worker_tasks.refuse, range(3))}
    assert isinstance(ended[1].error, ZeroDivisionError)
    assert [ended[number].value for number in range(3)] == [0, None, 2]


@pytest.mark.parametrize("at_once", [1, 3])
def test_one_that_kills_each_worker_is_given_up_after_three_tries_and_no_other(client, tmp_path, at_once):
    items = innocents(tmp_path, 12)
    items[2:2] = [(str(tmp_path), "poison", 99, 0)]
    items[4:4] = [(str(tmp_path), "unlucky", 1, 0)]
    ended = {one.item[1]: one for one in run_tasks(client, worker_tasks.maybe_die, items, at_once)}
    poison = ended.pop("poison")
    assert isinstance(poison.error, WorkerDiedError)
    assert "killed its worker 3 times, mostly for lack of memory" in str(poison.error)
    assert len(set(starts(tmp_path, "poison"))) == 3, "exactly three tries, each in another process"
    assert {name: one.value for name, one in ended.items()} == {name: name for name in ended}
    assert len(ended) == 13


def test_two_that_kill_are_told_from_one_another_and_from_those_beside_them(client, tmp_path):
    kill = [(str(tmp_path), name, 99, 0) for name in ("poison 1", "poison 2")]
    items = [*innocents(tmp_path, 2, 0.3), *kill, *innocents(tmp_path, 4)[2:]]
    ended = {one.item[1]: one.error for one in run_tasks(client, worker_tasks.maybe_die, items, at_once=3)}
    assert {name for name, error in ended.items() if error is not None} == {"poison 1", "poison 2"}
    assert len(ended) == 6
    assert len(starts(tmp_path, "poison 1")) <= 3
    assert len(starts(tmp_path, "poison 2")) <= 3


def test_a_worker_that_is_killed_from_outside_costs_no_item_and_is_used_again(client, tmp_path):
    items = innocents(tmp_path, 30, 0.1)
    done, first = [], None
    for one in run_tasks(client, worker_tasks.maybe_die, items):
        done.append(one.value)
        if first is None:
            first = starts(tmp_path, one.value)[0]
            os.kill(first, signal.SIGKILL)
    assert sorted(done) == sorted(item[1] for item in items)
    pids = {starts(tmp_path, item[1])[-1] for item in items}
    assert first in {pid for item in items for pid in starts(tmp_path, item[1])}
    assert len(pids) >= 2


@pytest.mark.parametrize("at_once", [1, 3])
def test_what_nobody_waits_for_can_tell_and_what_has_not_begun_never_begins(client, tmp_path, at_once):
    names = ["quick", *(f"long {number}" for number in range(9))]
    running = run_tasks(client, worker_tasks.until_unwanted, [(str(tmp_path), name) for name in names], at_once)
    assert next(running).item[1] == "quick"
    wait_until((tmp_path / "long 0").exists)
    running.close()
    wait_until((tmp_path / "unwanted").exists)
    time.sleep(0.5)
    begun = {name for name in names if (tmp_path / name).exists()}
    assert begun <= {"quick", *(f"long {number}" for number in range(2 * at_once))}


def test_tasks_can_tell_the_client_something_on_the_way(client):
    heard = []
    with Workforce(client) as workforce, workforce.hearing("numbers"):
        remaining = iter(range(1, 6))
        done = list(run_on(workforce, worker_tasks.tell, lambda: next(remaining, None), hear=heard.append))
    assert len(done) == 5
    assert {message["number"] for message in heard} <= set(range(1, 6))
    assert heard


def test_the_scheduler_s_own_count_of_deaths_does_not_matter_and_workers_may_come_late(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.workforce.SAY_AFTER", 0.5)
    with scheduler(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as one, Client(one.address) as client:
        items = [(str(tmp_path), "poison", 99, 0), *innocents(tmp_path, 3)]
        running = run_tasks(client, worker_tasks.maybe_die, items, at_once=3)
        with pytest.raises(InputError, match="no worker has come to tcp://"):
            next(_impatient(client))
        assert "there is no worker at tcp://" in caplog.text
        with worker(one.address, tmp_path):
            ended = {found.item[1]: found.error for found in running}
        assert [name for name, error in ended.items() if error is not None] == ["poison"]
        assert len(ended) == 4
        assert len(starts(tmp_path, "poison")) == 3
        started = time.monotonic()
        running = run_tasks(client, worker_tasks.double, range(3))
        os.killpg(one.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"the scheduler at tcp://.* is gone"):
            list(running)
        assert time.monotonic() - started < 120, "a limit against hangs"


def _impatient(client):
    with Workforce(client, patience=1) as workforce:
        yield from run_on(workforce, worker_tasks.double, partial(next, iter([1]), None))
