"""What a terminal shows of a user's mistake: one line, instead of forty of MONAI's frames."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from pipeline.errors import InputError, find_input_error

SAID_ELSEWHERE = (InputError, KeyboardInterrupt, SystemExit)


def explain_mistakes() -> None:
    """Let `python -m monai.bundle` end with the user's mistake in one line, said once."""
    if getattr(sys.modules["__main__"].__spec__, "name", None) != "monai.bundle.__main__":
        return
    sys.excepthook = print_mistake
    for handler in logging.getLogger().handlers:
        handler.addFilter(is_news)


def print_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an InputError, also one that MONAI has wrapped, as one line; a bug keeps its traceback."""
    problem = find_input_error(error)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
    elif not isinstance(error, KeyboardInterrupt):  # of which the run's own log line tells
        sys.__excepthook__(kind, error, trace)


def is_news(record: logging.LogRecord) -> bool:
    """Tell whether a log record is more than what an Ignite engine says of a mistake that it passes on."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not (record.name.startswith("ignite") and any(isinstance(item, SAID_ELSEWHERE) for item in arguments))
