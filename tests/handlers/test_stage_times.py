"""The stages of a training sum to its time, and each has what happened in it."""

import pytest
from engines import scripted_evaluator, trainer
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler

from pipeline.handlers import stage_times
from pipeline.handlers.history import History
from pipeline.handlers.stage_times import IN_EPOCHS, STAGES, StageTimes, counted_as, table


class Clock:
    """A clock that stands still but when it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Takes:
    """A handler that lets the clock go on at an event."""

    def __init__(self, clock, event, seconds, on=None):
        self.clock, self.event, self.seconds, self.on = clock, event, seconds, on

    def attach(self, engine):
        (self.on or engine).add_event_handler(self.event, self.go_on)

    def go_on(self, engine):
        self.clock.now += self.seconds


class Counted:
    """A handler whose seconds at an event are a stage of their own."""

    def __init__(self, clock, event, stage, seconds):
        self.clock, self.event, self.stage, self.seconds = clock, event, stage, seconds

    def attach(self, engine):
        engine.add_event_handler(self.event, self.go_on)

    def go_on(self, engine):
        with counted_as(self.stage, engine):
            self.clock.now += self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stage_times, "perf_counter", clock)
    return clock


def test_each_stage_has_what_happened_in_it_by_hand(clock, caplog):
    evaluator = scripted_evaluator([0.5, 0.5])
    times = StageTimes(evaluator)
    # Handlers of one event are called in this order: those before `times` end a stage, those behind begin the next.
    before = [
        Takes(clock, Events.GET_BATCH_COMPLETED, 2),
        Takes(clock, IterationEvents.FORWARD_COMPLETED, 3),
        Takes(clock, IterationEvents.BACKWARD_COMPLETED, 5),
        Takes(clock, IterationEvents.MODEL_COMPLETED, 7),
        Takes(clock, Events.ITERATION_COMPLETED, 11),
        Takes(clock, Events.ITERATION_COMPLETED, 13, on=evaluator),
    ]
    history = History(trainer().optimizer, evaluator)
    saves = Counted(clock, Events.EPOCH_COMPLETED, "checkpoint", 1)
    reports = Counted(clock, Events.COMPLETED, "report", 17)
    handlers = [*before, ValidationHandler(1, evaluator), history, times, saves, reports]
    engine = trainer(handlers, epochs=2, losses=(1, 1, 1))
    with caplog.at_level("INFO"):
        engine.run()
    # Two epochs of three iterations, each with one validation and one checkpoint.
    expected = {"data": 12, "forward": 18, "backward": 30, "step": 42, "validation": 26, "checkpoint": 2}
    expected |= {"report": 17, "log": 66}
    assert times.totals() == expected
    assert sum(expected.values()) == clock.now
    first, second = ({name: row[f"time/{name}"] for name in IN_EPOCHS} for row in engine.state.history)
    assert first == {name: expected[name] / 2 for name in IN_EPOCHS} | {"checkpoint": 0}
    assert second == {name: expected[name] / 2 for name in IN_EPOCHS}, "the checkpoint behind the first row counts here"
    assert "time: 213.0 s = data 12.0 s (6 %), forward 18.0 s (8 %)" in caplog.text


def test_the_stages_sum_to_the_whole_of_a_real_training():
    evaluator = scripted_evaluator([0.5, 0.5])
    times = StageTimes(evaluator)
    optimizer = trainer().optimizer
    handlers = [ValidationHandler(1, evaluator), History(optimizer, evaluator), times]
    engine = trainer(handlers, epochs=2, losses=(1, 1, 1))
    started = []
    engine.add_event_handler(Events.STARTED, lambda engine: started.append(times._moments[0][1]))
    engine.run()
    ((_, ended),) = times._moments
    assert sum(times.totals().values()) == pytest.approx(ended - started[0], abs=1e-9)
    assert all(times.totals()[stage] > 0 for stage in STAGES if stage not in ("checkpoint", "report"))


def test_a_checkpoint_without_the_handler_is_just_made(clock):
    Counted(clock, Events.STARTED, "checkpoint", 1).go_on(trainer())
    assert clock.now == 1


def test_a_table_of_no_time():
    assert table({"data": 0.0}) == "time: 0.0 s = data 0.0 s (0 %)"
