"""What the log of a worker says of a task, to be said again in the client's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_here = threading.local()


class Line(NamedTuple):
    """A line of a log: of which logger, how grave, and what."""

    name: str
    level: int
    text: str


class _Keep(logging.Handler):
    """Keep what a thread that listens says; what is said in others goes to the worker's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = getattr(_here, "lines", None)
        if lines is not None:
            lines.append(Line(record.name, record.levelno, self.format(record)))
        elif record.levelno >= logging.WARNING and logging.lastResort is not None:
            logging.lastResort.handle(record)


_keep = _Keep()


@contextmanager
def kept() -> Iterator[list[Line]]:
    """Keep what this package logs in this thread and block instead of writing it."""
    package = logging.getLogger("pipeline")
    if _keep not in package.handlers:
        package.addHandler(_keep)
        package.setLevel(logging.INFO)
        package.propagate = False
    lines: list[Line] = []
    _here.lines = lines
    try:
        yield lines
    finally:
        _here.lines = None


def say(lines: Iterable[Line]) -> None:
    """Log lines in this process, as far as its loggers let them through."""
    for line in lines:
        logging.getLogger(line.name).log(line.level, "%s", line.text)
