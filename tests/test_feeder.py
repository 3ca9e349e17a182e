"""Whatever a store does, entries arrive in order and once, nobody waits for long, and what waits is on the disk."""

import os
import signal
import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

from pipeline.feeder import BATCH, Feeder
from pipeline.journal import Journal


class Store:
    """Takes entries, unless it is told to refuse, fail or hang."""

    def __init__(self, fails=0):
        self.written, self.batches, self.fails = [], [], fails
        self.refuses = {}  # by the name of the entry
        self.open = threading.Event()
        self.open.set()

    def write(self, contents):
        self.open.wait(30)
        if self.fails:
            self.fails -= 1
            raise MlflowException("database is locked")
        if error := self.refuses.get(contents[0].get("name")):
            raise error
        self.batches.append(len(contents))
        self.written += [content.get("step", content.get("name")) for content in contents]
        return {}

    def feeder(self, every=0.01, journal=None, **options):
        return Feeder(journal or Journal(), self.write, every=every, **options)


def metric(step):
    return {"kind": "metrics", "step": step}


def patient():
    return True


def test_metrics_and_other_entries_keep_their_order():
    store = Store()
    feeder = store.feeder()
    for step in range(5):
        feeder.put(metric(step))
        feeder.put({"kind": "tags", "name": f"tag {step}"})
    assert feeder.close(patient) == 0
    assert store.written == [entry for step in range(5) for entry in (step, f"tag {step}")]


def test_metrics_go_in_batches_and_the_rest_alone():
    store = Store()
    store.open.clear()
    feeder = store.feeder()
    for step in range(2 * BATCH + 5):
        feeder.put(metric(step))
    feeder.put({"kind": "tags", "name": "a"})
    feeder.put({"kind": "tags", "name": "b"})
    store.open.set()
    assert feeder.close(patient) == 0
    assert store.written == [*range(2 * BATCH + 5), "a", "b"]
    assert 1 < max(store.batches) <= BATCH
    assert store.batches[-2:] == [1, 1]


def test_metrics_wait_for_a_store_that_fails_and_arrive_once(caplog):
    store = Store(fails=3)
    feeder = store.feeder()
    for step in range(5):
        feeder.put(metric(step))
    time.sleep(0.3)
    assert feeder.close(patient) == 0
    assert store.written == [0, 1, 2, 3, 4]
    said = [record.message for record in caplog.records]
    assert len(said) == 2, said  # that it fails, said once for three failures, and that it is over
    assert "database is locked" in said[0]
    assert "answers again" in said[1]


def test_a_store_out_of_reach_is_asked_only_whether_it_is_back():
    store, questions = Store(fails=1), iter([False] * 5 + [True])
    feeder = store.feeder(answers=lambda: next(questions))
    feeder.put(metric(1))
    deadline = time.monotonic() + 10
    while not store.written and time.monotonic() < deadline:
        time.sleep(0.01)
    assert next(questions, "asked six times") == "asked six times"
    assert feeder.close(patient) == 0


def test_what_a_store_refuses_holds_up_nothing(caplog):
    store = Store()
    store.refuses = {
        "bad name": MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE),
        "no file": FileNotFoundError("no such file"),
        "bug": TypeError("no such type"),
    }
    feeder = store.feeder()
    for name in store.refuses:
        feeder.put({"kind": "tags", "name": name})
    feeder.put(metric(1))
    assert feeder.close(patient) == 0
    assert store.written == [1]
    for reason in ("no such name", "no such file", "no such type"):
        assert reason in caplog.text


class ForeignError(Exception):
    """What a cloud's own package raises."""


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("tags", MlflowException("log in first", error_code=PERMISSION_DENIED)),
        ("artifact", ConnectionError("broken pipe")),
        ("artifact", ForeignError("no such bucket")),
        ("open", MlflowException("not this kind of store", error_code=INVALID_PARAMETER_VALUE)),
    ],
)
def test_what_may_be_better_tomorrow_waits_and_so_does_what_comes_after(tmp_path, kind, error):
    store, journal = Store(), Journal(tmp_path / "mlflow.journal")
    store.refuses = {"a": error}
    feeder = store.feeder(journal=journal)
    feeder.put({"kind": kind, "name": "a"})
    feeder.put(metric(1))
    assert feeder.close(patient) == 2
    assert store.written == []
    journal.close()
    store.refuses = {}
    assert store.feeder(journal=Journal(tmp_path / "mlflow.journal")).close(patient) == 0
    assert store.written == ["a", 1]


def test_a_flush_returns_when_all_before_it_is_written():
    store = Store()
    feeder = store.feeder(every=60)  # it gathers for a minute unless told otherwise
    feeder.put(metric(1))
    feeder.put(metric(2))
    assert feeder.flush(timeout=10)
    assert store.written == [1, 2]
    assert feeder.close(patient) == 0


def test_a_store_that_hangs_costs_one_flush_and_no_more(caplog):
    store = Store()
    store.open.clear()
    feeder = store.feeder()
    feeder.put(metric(1))
    begin = time.monotonic()
    assert not feeder.flush(timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 30
    for step in range(2, 50):
        feeder.put(metric(step))
        assert not feeder.flush(timeout=60), "known to hang: nobody waits for it again"
    assert time.monotonic() - begin < 30
    assert caplog.text.count("does not answer") == 1
    store.open.set()
    assert feeder.close(patient) == 0
    assert store.written == list(range(1, 50))


def test_a_store_that_hangs_to_the_end_is_given_up_and_what_it_lacks_is_counted():
    store, questions = Store(), iter([True, True, False])
    store.open.clear()
    feeder = store.feeder()
    for step in range(7):
        feeder.put(metric(step))
    assert feeder.close(lambda: next(questions), look_every=0.05) == 7
    assert next(questions, "asked thrice") == "asked thrice"
    store.open.set()


def test_a_store_that_fails_to_the_end_is_tried_three_times():
    store = Store(fails=1000)
    feeder = store.feeder()
    feeder.put(metric(1))
    assert feeder.close(patient) == 1
    assert 1000 - store.fails >= 3


def test_what_a_full_disk_does_not_keep_reaches_the_store_in_its_order(monkeypatch, caplog):
    store, full = Store(), threading.Event()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: 0 if full.is_set() else write(descriptor, line))
    feeder = store.feeder()
    feeder.put(metric(1))
    assert feeder.flush(timeout=10)
    full.set()
    feeder.put(metric(2))
    feeder.put(metric(3))
    full.clear()
    feeder.put(metric(4))
    assert feeder.flush(timeout=10)
    full.set()
    feeder.put(metric(5))
    assert feeder.close(patient) == 0
    assert store.written == [1, 2, 3, 4, 5]
    assert caplog.text.count("its journal takes no more: the disk is full") == 1


def test_what_neither_disk_nor_store_takes_is_counted(monkeypatch):
    store = Store(fails=1000)
    monkeypatch.setattr(os, "write", lambda descriptor, line: 0)
    feeder = store.feeder()
    feeder.put(metric(1))
    feeder.put(metric(2))
    assert feeder.close(patient) == 2


def test_a_wait_that_a_signal_interrupts_can_go_on():
    store = Store()
    store.open.clear()
    feeder = store.feeder()
    feeder.put({"kind": "model", "name": "model"})
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        feeder.close(patient)
    feeder.put({"kind": "end", "name": "end"})
    threading.Timer(0.1, store.open.set).start()
    assert feeder.close(patient) == 0, "it waits for the thread, which still writes"
    assert store.written == ["model", "end"]
