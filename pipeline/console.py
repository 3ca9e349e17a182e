"""What a terminal shows of a user's mistake: one line, instead of forty of MONAI's frames."""

from __future__ import annotations

import sys
from types import TracebackType

from pipeline.errors import find_input_error


def explain_mistakes() -> None:
    """Let `python -m monai.bundle` end with the user's mistake in one line."""
    if getattr(sys.modules["__main__"].__spec__, "name", None) == "monai.bundle.__main__":
        sys.excepthook = print_mistake


def print_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an InputError, also one that MONAI has wrapped, as one line; a bug keeps its traceback."""
    problem = find_input_error(error)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
    elif not isinstance(error, KeyboardInterrupt):  # of which the run's own log line tells
        sys.__excepthook__(kind, error, trace)
