"""Each moment is charged to one stage, and the sum is the time that went by."""

import pytest
import torch

from pipeline.batch import clock as clocks
from pipeline.batch.clock import STAGES, Clock, during, forwards, stage, table


@pytest.fixture
def now(monkeypatch):
    """The time, which stands until a test lets it go on: `now(2)`."""
    passed = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: passed[0])

    def wait(seconds):
        passed[0] += seconds

    return wait


def test_a_stage_inside_another_stops_the_outer_one(now):
    clock = Clock()
    with clock.running():
        now(100)  # of no stage
        with stage("stitch"):
            now(1)
            with stage("forward"):
                now(2)
                with stage("stitch"):
                    now(4)
                now(8)
            now(16)
        now(100)
    assert clock.seconds == {"stitch": 1 + 4 + 16, "forward": 2 + 8}


def test_without_a_clock_a_stage_is_nothing(now):
    with stage("read"):
        now(1)
    clock = Clock()
    with clock.running():
        pass
    with stage("read"):
        now(1)
    assert clock.seconds == {}
    assert list(during("read", [1, 2])) == [1, 2]


def test_an_error_ends_its_stages(now):
    clock = Clock()

    @stage("forward")
    def fail():
        now(1)
        raise ValueError("no")

    with clock.running():
        with stage("stitch"), pytest.raises(ValueError, match="no"):
            fail()
        with stage("write"):
            now(2)
    assert clock.seconds == {"stitch": 0, "forward": 1, "write": 2}


def test_a_function_may_be_a_stage(now):
    @stage("write")
    def work(seconds):
        now(seconds)
        return seconds

    clock = Clock()
    with clock.running():
        assert [work(1), work(2)] == [1, 2]
    assert clock.seconds == {"write": 3}


def test_the_making_of_items_is_charged_and_not_what_becomes_of_them(now):
    def slabs():
        for seconds in (1, 2):
            now(seconds)
            yield seconds
        now(4)

    clock = Clock()
    with clock.running(), stage("invert"):
        for seconds in during("stitch", slabs()):
            now(10 * seconds)
    assert clock.seconds == {"stitch": 1 + 2 + 4, "invert": 30}


class Waiting(torch.nn.Module):
    def __init__(self, now):
        super().__init__()
        self.now = now

    def forward(self, x):
        self.now(2)
        if x is None:
            raise MemoryError
        return x


def test_forwards_are_what_the_network_takes_also_where_it_fails(now):
    network, clock = Waiting(now), Clock()
    with clock.running(), stage("stitch"):
        with forwards(network, torch.device("cpu")):
            now(1)
            assert network(7) == 7
            with pytest.raises(MemoryError):
                network(None)
            now(1)
        network(7)  # of no interest any more
    assert clock.seconds == {"stitch": 1 + 1 + 2, "forward": 2 + 2}
    with forwards(network, torch.device("cpu")):  # without a clock
        assert network(7) == 7
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_what_was_waited_for_is_moved_and_nothing_falls_below_0():
    clock = Clock()
    clock.seconds = {"stitch": 3.0, "invert": 2.0}
    clock.move(4.0, "forward", "stitch", "invert")
    assert clock.seconds == {"stitch": 0, "invert": 1, "forward": 4}
    clock.move(4.0, "forward", "stitch", "invert")
    assert clock.seconds == {"stitch": 0, "invert": 0, "forward": 5}


@pytest.mark.gpu
def test_a_gpu_measures_its_forwards_by_itself():
    device = torch.device("cuda")
    network = torch.nn.Conv3d(8, 8, 5, padding=2).to(device)
    image, clock = torch.rand(1, 8, 128, 128, 128, device=device), Clock()
    with clock.running(), stage("stitch"), forwards(network, device):
        for _ in range(20):
            network(image)
    assert 0 < clock.seconds["stitch"] < clock.seconds["forward"] < 60


def test_the_table_of_a_batch_by_hand():
    assert table({"forward": 3.0, "read": 1.0}, cases=2, elapsed=3.6) == [
        "where the time went, of 2 cases in 3.6 s (2000 an hour):",
        "  read          1.00 s  25.0 %",
        "  resample      0.00 s   0.0 %",
        "  forward       3.00 s  75.0 %",
        "  stitch        0.00 s   0.0 %",
        "  invert        0.00 s   0.0 %",
        "  write         0.00 s   0.0 %",
    ]
    assert [line.split()[0] for line in table({}, 0, 0.0)[1:]] == list(STAGES)
