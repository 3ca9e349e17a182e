"""What each slice of a stack adds to a measure, so that a stack can be measured piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class SliceDetails:
    """Arrays whose last axis is the slices: `a + b` has those of both, `float(a)` is the measure of them as one stack.

    One threshold serves all slices, so the measure of two stacks together is not the mean of theirs.
    """

    thresholds: tuple[float, ...]

    def __add__(self, other: Self) -> Self:
        if self.thresholds != other.thresholds:
            raise ValueError(f"thresholds {self.thresholds} and {other.thresholds} make no stack")
        names = [field.name for field in fields(self) if field.name != "thresholds"]
        both: dict[str, Any] = {name: np.concatenate([vars(self)[name], vars(other)[name]], axis=-1) for name in names}
        return replace(self, **both)

    def __float__(self) -> float:
        raise NotImplementedError
