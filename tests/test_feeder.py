"""Whatever a store does, metrics arrive in order and once, and nobody waits for long."""

import threading
import time

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.feeder import BATCH, Feeder


class Store:
    """Takes metrics, unless it is told to refuse, fail or hang."""

    def __init__(self, fails=0):
        self.written, self.batches, self.fails = [], [], fails
        self.open = threading.Event()
        self.open.set()

    def write(self, metrics):
        self.open.wait(30)
        if self.fails:
            self.fails -= 1
            raise MlflowException("database is locked")
        self.batches.append(len(metrics))
        self.written += [metric.step for metric in metrics]


def metric(step):
    return Metric("loss", 0.5, 0, step)


def patient():
    return True


def test_metrics_and_calls_keep_their_order():
    store = Store()
    feeder = Feeder(store.write, every=0.01)
    for step in range(5):
        feeder.put(metric(step))
        feeder.call(lambda step=step: store.written.append(f"call {step}"))
    assert feeder.close(patient) == 0
    assert store.written == [entry for step in range(5) for entry in (step, f"call {step}")]


def test_metrics_go_in_batches_that_mlflow_takes():
    store = Store()
    store.open.clear()
    feeder = Feeder(store.write, every=0.01)
    for step in range(2 * BATCH + 5):
        feeder.put(metric(step))
    store.open.set()
    assert feeder.close(patient) == 0
    assert store.written == list(range(2 * BATCH + 5))
    assert max(store.batches) <= BATCH


def test_metrics_wait_for_a_store_that_fails_and_arrive_once(caplog):
    store = Store(fails=3)
    feeder = Feeder(store.write, every=0.01)
    for step in range(5):
        feeder.put(metric(step))
    time.sleep(0.3)
    assert feeder.close(patient) == 0
    assert store.written == [0, 1, 2, 3, 4]
    said = [record.message for record in caplog.records]
    assert len(said) == 2, said  # that it fails, said once for three failures, and that it is over
    assert "database is locked" in said[0]
    assert "answers again" in said[1]


def test_what_a_store_refuses_holds_up_nothing(caplog):
    store, refusal = Store(), MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE)

    def refuse():
        raise refusal

    def broken():
        raise OSError("no such file")

    feeder = Feeder(store.write, every=0.01)
    feeder.call(refuse)
    feeder.call(broken)
    feeder.put(metric(1))
    assert feeder.close(patient) == 0
    assert store.written == [1]
    assert "no such name" in caplog.text
    assert "no such file" in caplog.text


def test_a_flush_returns_when_all_before_it_is_written():
    store = Store()
    feeder = Feeder(store.write, every=60)  # it gathers for a minute unless told otherwise
    feeder.put(metric(1))
    feeder.put(metric(2))
    assert feeder.flush(timeout=10)
    assert store.written == [1, 2]
    assert feeder.close(patient) == 0


def test_a_store_that_hangs_costs_one_flush_and_no_more(caplog):
    store = Store()
    store.open.clear()
    feeder = Feeder(store.write, every=0.01)
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
    feeder = Feeder(store.write, every=0.01)
    for step in range(7):
        feeder.put(metric(step))
    assert feeder.close(lambda: next(questions), look_every=0.05) == 7
    assert next(questions, "asked thrice") == "asked thrice"
    store.open.set()


def test_a_store_that_fails_to_the_end_is_tried_three_times():
    store = Store(fails=1000)
    feeder = Feeder(store.write, every=0.01)
    feeder.put(metric(1))
    assert feeder.close(patient) == 1
    assert 1000 - store.fails >= 3


def test_memory_is_bounded_and_what_does_not_fit_is_counted():
    store = Store()
    store.open.clear()
    feeder = Feeder(store.write, every=0.01, limit=10)
    for step in range(25):
        feeder.put(metric(step))
    store.open.set()
    assert feeder.close(patient) == 15
    assert store.written == list(range(10))
