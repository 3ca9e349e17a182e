"""Where the time of a training went, stage by stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow

logger = logging.getLogger(__name__)

STAGES = ("data", "forward", "backward", "step", "validation", "checkpoint", "report", "log")
IN_EPOCHS = tuple(stage for stage in STAGES if stage != "report")
SETTLED_EVERY = 64  # moments on a GPU


class StageTimes:
    """Count the seconds of each stage from the start of a training to its end, and print them.

    data: waiting for the batch; forward: up to the loss, moving the batch included; backward; step: of the optimizer;
    validation; checkpoint; report: what is written when all epochs are done; log: all that is left, such as the other
    handlers. Every moment belongs to one stage, so that the stages sum to the whole.

    On a GPU the moments are events in its stream, read long after: nothing waits for them. A stage's time is then the
    GPU's own, and "data" is how long it waited for the batch.

    Each epoch's row of the history, and so the tracking store, has them as `time/data`, ...; what follows the row, a
    checkpoint for instance, counts in the next one, and what follows the last row only in the sum that is printed.

    Args:
        evaluator: the validation engine.
    """

    def __init__(self, evaluator: Workflow) -> None:
        self.evaluator = evaluator
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands behind the history, whose row it completes, and before the checkpoints."""
        engine.state.stage_times = self
        engine.add_event_handler(Events.STARTED, self._start)
        ends = {
            Events.GET_BATCH_STARTED: "log",
            Events.GET_BATCH_COMPLETED: "data",
            Events.ITERATION_STARTED: "log",
            IterationEvents.LOSS_COMPLETED: "forward",
            IterationEvents.BACKWARD_COMPLETED: "backward",
            IterationEvents.MODEL_COMPLETED: "step",
        }
        for event, stage in ends.items():
            engine.add_event_handler(event, self._listener(stage))
        self.evaluator.add_event_handler(Events.STARTED, self._listener("log"))
        self.evaluator.add_event_handler(Events.COMPLETED, self._listener("validation"))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._complete_row)

    def end(self, stage: str) -> None:
        """What has passed since the last call belongs to this stage."""
        self._moments.append((stage, self._now()))
        if len(self._moments) >= self._settle_at:
            self._settle()

    def totals(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        if self._on_gpu:
            self._moments[-1][1].synchronize()
        self._settle()
        return dict(self.seconds)

    def _start(self, engine: Workflow) -> None:
        self._on_gpu = torch.device(engine.state.device).type == "cuda"
        self._now: Callable[[], Any] = _event if self._on_gpu else perf_counter
        self._settle_at = SETTLED_EVERY if self._on_gpu else 2
        self._moments: list[tuple[str, Any]] = [("", self._now())]
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._before = dict(self.seconds)
        if not engine.has_event_handler(self._print, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._print)  # behind all others, such as the progress bar's

    def _listener(self, stage: str) -> Callable[[Workflow], None]:
        return lambda engine: self.end(stage)

    def _settle(self) -> None:
        """Count the moments that have come to pass on the device."""
        while len(self._moments) > 1 and (not self._on_gpu or self._moments[1][1].query()):
            (_, begin), (stage, end) = self._moments[:2]
            self.seconds[stage] += begin.elapsed_time(end) / 1e3 if self._on_gpu else end - begin
            del self._moments[0]

    def _complete_row(self, engine: Workflow) -> None:
        self.end("log")
        now = self.totals()
        engine.state.history[-1] |= {f"time/{stage}": now[stage] - self._before[stage] for stage in IN_EPOCHS}
        self._before = now

    def _print(self, engine: Workflow) -> None:
        self.end("log")
        if engine.state.rank == 0:
            logger.info("%s", table(self.totals()))


@contextmanager
def counted_as(stage: str, engine: Workflow) -> Iterator[None]:
    """Count what happens inside as a stage of its own, if the trainer's time is counted at all."""
    times = getattr(engine.state, "stage_times", None)
    if times is not None:
        times.end("log")
    yield
    if times is not None:
        times.end(stage)


def table(seconds: dict[str, float]) -> str:
    """One line: "time: 12.0 s = data 1.0 s (8 %), forward 4.0 s (33 %), ..."."""
    total = sum(seconds.values())
    parts = (f"{stage} {value:.1f} s ({100 * value / (total or 1):.0f} %)" for stage, value in seconds.items())
    return f"time: {total:.1f} s = {', '.join(parts)}"


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
