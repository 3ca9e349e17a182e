"""Cases of several threads overlap stage by stage, and large ones not at all."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pipeline.batch.inputs import Input
from pipeline.batch.turns import Turns


class Work:
    """Notes which cases are in which stage at the same time."""

    def __init__(self, large=()):
        self.large, self.lock = large, threading.Lock()
        self.now, self.most, self.together, self.threads = {}, {}, [], {}

    def wants_room(self, entry):
        return entry.case in self.large

    def _stage(self, name, case):
        self.threads.setdefault(name, set()).add(torch.get_num_threads())
        with self.lock:
            self.now.setdefault(name, set()).add(case)
            self.most[name] = max(self.most.get(name, 0), len(self.now[name]))
            self.together.append(frozenset().union(*self.now.values()))
        time.sleep(0.02)
        with self.lock:
            self.now[name].remove(case)
        return case

    def read(self, entry):
        if entry.case == "bad":
            raise ValueError("bad")
        return self._stage("read", entry.case)

    def predict(self, case):
        return self._stage("predict", case)

    def write(self, case):
        return self._stage("write", case)

    def row(self, outcome):
        return {"case": outcome.entry.case, "status": "done" if outcome.error is None else "failed"}


def entries(*names):
    return [Input(name, (Path(name),), (Path(name),)) for name in names]


def run(turns, names):
    with ThreadPoolExecutor(3) as pool:
        return [found[0] for found in pool.map(turns.whole, entries(*names))]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_each_stage_has_one_case_at_a_time_and_stages_overlap(threads):
    work = Work()
    rows = run(Turns(work), "abcdefgh")
    assert [row["case"] for row in rows] == list("abcdefgh")
    assert work.most == {"read": 1, "predict": 1, "write": 1}
    assert max(map(len, work.together)) > 1
    assert work.threads == {"read": {1}, "predict": {threads}, "write": {1}}


def test_a_large_case_is_alone(threads):
    work = Work(large={"c", "f"})
    run(Turns(work), "abcdefgh")
    assert {"c", "f"} <= set().union(*work.together)
    assert all(len(beside) == 1 for beside in work.together if beside & {"c", "f"})


def test_a_bad_case_stops_no_other_and_what_is_not_wanted_is_not_begun(threads):
    work = Work()
    turns = Turns(work)
    assert [row["status"] for row in run(turns, ["bad", "a"])] == ["failed", "done"]
    assert turns.whole(entries("b")[0], is_wanted=lambda: False) is None
    assert "b" not in set().union(*work.together)
