"""What a terminal shows of a user's mistake: one line, instead of forty of MONAI's frames."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pipeline import ranks
from pipeline.errors import InputError, find_input_error


def explain_mistakes() -> None:
    """Let `python -m monai.bundle` end with the user's mistake in one line."""
    if getattr(sys.modules["__main__"].__spec__, "name", None) == "monai.bundle.__main__":
        sys.excepthook = print_mistake


def print_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an InputError, also one that MONAI has wrapped, as one line; a bug keeps its traceback.

    Of several ranks, each mistake is said by one, and the loss of a rank by the first that is left.
    """
    problem = find_input_error(error) or _lost_worker(error) or ranks.lost(error)
    if problem is not None:
        if ranks.says(problem):
            print(f"error: {problem}", file=sys.stderr, flush=True)
    elif not isinstance(error, KeyboardInterrupt):  # of which the run's own log line tells
        sys.__excepthook__(kind, error, trace)
    ranks.leave(str(problem or f"{kind.__name__}: {error}"))


def _lost_worker(error: BaseException | None) -> InputError | None:
    """Return what torch says of a loader's worker that was killed, as the user's problem."""
    while error is not None:
        if found := re.match(r"DataLoader worker \(pid \d+\) is (killed by signal: [\w ]+)", str(error)):
            remedy = "mostly memory is short: give a smaller --num_workers, or close other programs; then --resume true"
            return InputError(f"a worker that loads cases was {found[1].strip()}", remedy=remedy)
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what a training tells on its way."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
