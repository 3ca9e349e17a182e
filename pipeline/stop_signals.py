"""Signals that tell a process to stop: the first one raises, so that what is open is closed, and no other disturbs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 15  # seconds after the first one, in which what is open is closed and more of them are not heard

_told: tuple[signal.Signals, float] | None = None  # the last one that raised, and when
_muted: dict[int, Any] = {}  # handlers to give back at the end


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM (a cluster's) and SIGHUP (a closed terminal's) end the block by an exception.

    Ctrl-C raises KeyboardInterrupt, the others SystemExit with the status that a shell gives them, 143 and 129. What
    the process was started to ignore, as by nohup, is ignored. Blocks may stand in one another, and in a thread, which
    no signal reaches.
    """
    global _told
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in STOPS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    earlier: dict[int, Any] = {number: signal.signal(number, _stop) for number in heard}
    is_outermost = _stop not in earlier.values()
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if is_outermost:
            _told = None
            for number, handler in _muted.items():
                signal.signal(number, handler)
            _muted.clear()


def told_to_stop() -> signal.Signals | None:
    """Return which signal has ended the block that this is called in, if one has."""
    return _told[0] if _told else None


def hear_no_more() -> None:
    """Let no signal of the next `GRACE` seconds disturb what closes because of an error."""
    global _told
    _told = _told or (signal.SIGTERM, time.monotonic())


def _stop(number: int, frame: FrameType | None) -> None:
    global _told
    if _told and time.monotonic() - _told[1] < GRACE:
        return
    _told = signal.Signals(number), time.monotonic()
    _mute_workers()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _mute_workers() -> None:
    """Do without torch's word that a loader's worker is gone: it raises, and the same signal has often ended them."""
    number = getattr(signal, "SIGCHLD", None)
    if number is not None and number not in _muted and callable(signal.getsignal(number)):
        _muted[number] = signal.signal(number, lambda number, frame: None)
