"""Why something failed, in one line."""

from __future__ import annotations

import torch

from pipeline.errors import find_input_error


def reason_of(error: BaseException) -> str:
    """Return the user's mistake behind an error, else what broke first."""
    problem = find_input_error(error)
    if problem is not None:
        return str(problem)
    while error.__cause__ is not None:  # MONAI wraps what a config raises
        error = error.__cause__
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {line}"
    return f"{type(error).__name__}: {line}"
