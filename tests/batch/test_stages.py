"""What is read ahead and written behind, and what an error of one case leaves of the others."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline.batch.clock import stage as clock_stage
from pipeline.batch.stages import run_stages


def collect(entries, **stages):
    steps = {"read": lambda x: x, "predict": lambda x: x, "write": lambda x: x, "record": lambda x: x, **stages}
    return list(run_stages(entries, **steps))


def test_every_case_goes_through_all_stages_in_order():
    outcomes = collect(["a", "b", "c"], read=lambda x: x + "r", predict=lambda x: x + "p", write=lambda x: x + "w")
    assert [(one.entry, one.result, one.error) for one in outcomes] == [
        ("a", "arpw", None),
        ("b", "brpw", None),
        ("c", "crpw", None),
    ]
    assert all(one.clock.seconds == {} for one in outcomes), "what they are called, the stages say themselves"


def test_no_case_is_no_outcome():
    assert collect([]) == []


@pytest.mark.parametrize("stage", ["read", "predict", "write"])
def test_an_error_of_one_case_stops_no_other_and_skips_its_later_stages(stage):
    done = []

    def fail_at_b(name):
        def work(value):
            if value == "b" and name == stage:
                raise ValueError(f"{name} fails")
            done.append((value, name))
            return value

        return work

    outcomes = collect(["a", "b", "c"], **{name: fail_at_b(name) for name in ("read", "predict", "write")})
    assert [str(one.error) for one in outcomes] == ["None", f"{stage} fails", "None"]
    assert [one.result for one in outcomes] == ["a", None, "c"]
    before = ["read", "predict", "write"][: ["read", "predict", "write"].index(stage)]
    assert [name for value, name in done if value == "b"] == before


def test_the_clock_of_a_case_runs_in_all_its_stages():
    def charged(name):
        return clock_stage(name)(lambda value: value)

    outcomes = collect(["a", "b"], read=charged("read"), predict=charged("forward"), write=charged("write"))
    assert [list(one.clock.seconds) for one in outcomes] == [["read", "forward", "write"]] * 2
    assert all(0 <= second < 60 for one in outcomes for second in one.clock.seconds.values())


def test_reading_and_writing_compute_on_one_thread_and_the_network_on_all():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = collect([1], read=lambda x: [torch.get_num_threads()], predict=threads_too, write=threads_too)
        assert found[0].result == [1, 3, 1]
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def threads_too(found):
    return [*found, torch.get_num_threads()]


def test_the_next_case_is_read_while_one_is_predicted_and_the_last_one_is_written():
    reading_second, writing_first = threading.Event(), threading.Event()

    def read(entry):
        if entry == 2:
            reading_second.set()
        return entry

    def predict(entry):
        if entry == 1:
            assert reading_second.wait(10), "case 2 is read during the prediction of case 1"
        if entry == 2:
            assert writing_first.wait(10), "case 1 is written during the prediction of case 2"
        return entry

    def write(entry):
        if entry == 1:
            writing_first.set()
        return entry

    assert [one.error for one in collect([1, 2], read=read, predict=predict, write=write)] == [None, None]


def concurrently(count, alone):
    """The largest number of cases between the start of their reading and the end of their writing."""
    held, most, lock = set(), [], threading.Lock()

    def read(entry):
        with lock:
            held.add(entry)
            most.append(len(held))
        return entry

    def write(entry):
        with lock:
            held.discard(entry)

    collect(range(count), read=read, write=write, alone=alone)
    return max(most)


def test_at_most_three_cases_are_held_at_once():
    assert concurrently(20, alone=lambda entry: False) <= 3


def test_a_case_that_wants_to_be_alone_is():
    assert concurrently(20, alone=lambda entry: True) == 1
    held, met = set(), []

    def read(entry):
        held.add(entry)
        met.append((entry, set(held)))
        return entry

    collect(range(9), read=read, write=held.discard, alone=lambda entry: entry == 4)
    assert all(others == {4} for entry, others in met if 4 in others), (
        "nothing was held when 4 came, nor came beside it"
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_it_after_what_was_begun_is_written(stop):
    def predict(entry):
        if entry == 2:
            raise stop
        return entry

    outcomes = run_stages([1, 2, 3], lambda x: x, predict, lambda x: -x, lambda x: x)
    assert next(outcomes).result == -1
    with pytest.raises(stop):
        next(outcomes)


def test_what_became_of_a_case_is_recorded_in_the_thread_that_wrote_it():
    def fail(value):
        raise ValueError(value)

    def record(outcome):
        return threading.current_thread().name.partition("_")[0], outcome.result, str(outcome.error)

    assert collect(["a"], record=record) == [("write", "a", "None")]
    assert collect(["a"], read=fail, record=record) == [("write", None, "a")]
