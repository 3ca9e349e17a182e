"""What is said of cases that could not be predicted: of each when it fails, and of all at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from pipeline.errors import InputError, find_input_error, visible

logger = logging.getLogger(__name__)

MOST_LISTED = 20  # failures that the last message repeats


def log_failure(case: str, error: Exception, leftovers: Sequence[PathLike[str]] = ()) -> str:
    """Log why a case failed, and return it in words.

    Args:
        case: its id.
        error: an InputError, by itself or wrapped by MONAI, is told by its own words; of a bug all is logged.
        leftovers: files that an earlier batch made of this case.
    """
    problem = find_input_error(error)  # MONAI's Compose wraps it
    cause = _cause(error)
    reason = f"{type(cause).__name__}: {cause}" if problem is None else str(problem)
    if problem is None or problem.case is None:
        reason = f"case '{visible(case)}': {reason}"
    if leftovers:
        reason += f". What an earlier batch made of this case is still there: {', '.join(map(str, leftovers))}"
    reason = visible(reason, lines=True)
    logger.error(reason, exc_info=error if problem is None else None)
    return reason


def raise_failures(rows: Sequence[Mapping[str, Any]], summary: str | PathLike[str]) -> None:
    """Raise an error that lists the rows of a summary whose status is not "done", if there are any."""
    failed = [row for row in rows if row["status"] != "done"]
    if not failed:
        return
    listed = [f"  {row['reason']}" for row in failed[:MOST_LISTED]]
    if len(failed) > MOST_LISTED:
        listed.append(f"  and {len(failed) - MOST_LISTED} more, which the summary lists")
    title = f"{len(failed)} of {len(rows)} images were not predicted"
    reason = "\n".join([f"{title}:", *listed, title])  # repeated, for the remedy stands behind the list
    raise InputError(reason, file=summary, remedy="mend these images and run again with --resume")


def _cause(error: BaseException) -> BaseException:
    """Return what a transform raised, of which MONAI's error around it only says where."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
