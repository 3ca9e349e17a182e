"""Where the time of a case goes: seconds by stage, of which each lies in one stage only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

STAGES = ("read", "resample", "forward", "stitch", "invert", "write")
Item = TypeVar("Item")


class Clock:
    """Seconds by stage. A stage that lies in another stops the outer one, so that the sum is the outermost one's time.

        with clock.running(), stage("stitch"):
            with stage("forward"):  # also where another module says so
                ...

    It may run in several threads, one after the other.

    Attributes:
        seconds: of each stage that was entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[Clock]:
        """Let `stage` mean this clock, in this thread and this block."""
        token = _running.set(self)
        try:
            yield self
        finally:
            _running.reset(token)

    def begin(self, name: str) -> None:
        """Enter a stage."""
        self._charge()
        self._open.append(name)

    def end(self) -> None:
        """Leave the stage that was entered last."""
        self._charge()
        self._open.pop()

    def move(self, seconds: float, to: str, *sources: str) -> None:
        """Charge to one stage what was waited for in others, the first of them first; none falls below 0."""
        for source in sources:
            moved = min(seconds, self.seconds.get(source, 0.0))
            self.seconds[source] = self.seconds.get(source, 0.0) - moved
            self.seconds[to] = self.seconds.get(to, 0.0) + moved
            seconds -= moved

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_running: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Charge a block, or as a decorator a function, to a stage of the clock that runs; without one, do nothing."""
    clock = _running.get()
    if clock is None:
        yield
        return
    clock.begin(name)
    try:
        yield
    finally:
        clock.end()


def during(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and charge the making of each to a stage."""
    iterator = iter(items)
    while True:
        with stage(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


@contextmanager
def forwards(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Charge what a network computes in this block to "forward".

    A call on a GPU returns before the work is done, and what needs its result waits. So the GPU measures by itself, and
    at the end the waiting stages give that much back.
    """
    clock = _running.get()
    if clock is None:
        yield
        return
    on_gpu = device.type == "cuda"
    marks: list[torch.cuda.Event] = []

    def mark(begins: bool) -> None:
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record(torch.cuda.current_stream(device))
        elif begins:
            clock.begin("forward")
        else:
            clock.end()

    def before(*_: Any) -> None:
        mark(begins=True)

    def after(*_: Any) -> None:
        mark(begins=False)

    handles = [
        network.register_forward_pre_hook(before),
        network.register_forward_hook(after, always_call=True),  # also where memory was short
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if marks:
        torch.cuda.synchronize(device)
        taken = sum(start.elapsed_time(stop) for start, stop in zip(marks[::2], marks[1::2], strict=True))
        clock.move(taken / 1e3, "forward", "stitch", "invert")


def table(seconds: Mapping[str, float], cases: int, elapsed: float) -> list[str]:
    """Return lines that say where the time of a batch went.

    Args:
        seconds: by stage, of all cases together; stages of different cases run beside each other.
        cases: how many.
        elapsed: seconds from the batch's begin to its end.
    """
    total = sum(seconds.values())
    rate = cases / elapsed * 3600 if elapsed else 0.0
    lines = [f"where the time went, of {cases} cases in {elapsed:.1f} s ({rate:.0f} an hour):"]
    for name in STAGES:
        taken = seconds.get(name, 0.0)
        share = 100 * taken / total if total else 0.0
        lines.append(f"  {name:8} {taken:9.2f} s {share:5.1f} %")
    return lines
