"""Moments and percentiles of more numbers than memory holds, from passes over them in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

HALF = 16  # bits of a float32 that a pass tells apart
Piece = tuple[np.ndarray, np.ndarray | None]  # float32 values (N), and how often each counts; None: once


@dataclass
class Moments:
    """Number, mean, squares and extremes of values that come in pieces, in float64.

    Pieces are merged as in Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance: no sum of squares
    is a difference of large numbers.

    Attributes:
        count: of the values.
        mean: of them; 0 for none.
        squares: sum of the squared distances to the mean.
        low, high: the extremes.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Take in values (N) that count so often each, or once."""
        if counts is not None:
            values, counts = values[counts > 0], counts[counts > 0]
        if not len(values):
            return
        number = len(values) if counts is None else int(counts.sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        wide = values.astype(np.float64)
        mean = float(wide.mean()) if counts is None else float(wide @ counts) / number
        wide -= mean
        squares = float(wide @ wide) if counts is None else float((wide * wide) @ counts)
        total, difference = self.count + number, mean - self.mean
        self.squares += squares + difference**2 * self.count * number / total
        self.mean += difference * number / total
        self.count = total

    @property
    def std(self) -> float:
        """The standard deviation of all values, exactly 0 where they are equal."""
        return math.sqrt(self.squares / self.count) if self.high > self.low else 0.0


def percentiles(pieces: Callable[[], Iterable[Piece]], percents: Sequence[float]) -> list[float]:
    """Return percentiles as numpy's, between neighbours linearly: exact, from two passes over the values.

    The first pass counts the upper half of the bits of each value, of which the order is that of the values; the second
    one the lower half, of those values alone whose upper half is one of those that are looked for.

    Args:
        pieces: yields all values anew each time that it is called; the float32 values must be finite.
        percents: from 0 to 100.
    """
    upper = np.zeros(2**HALF, np.int64)
    for values, counts in pieces():
        upper += _counted(_ordered(values) >> HALF, counts)
    ends = np.cumsum(upper)
    places = [percent / 100 * (int(ends[-1]) - 1) for percent in percents]
    ranks = sorted({rank for place in places for rank in (math.floor(place), math.ceil(place))})
    bins = {rank: int(np.searchsorted(ends, rank, side="right")) for rank in ranks}
    lower = {number: np.zeros(2**HALF, np.int64) for number in set(bins.values())}
    for values, counts in pieces():
        keys = _ordered(values)
        for number, found in lower.items():
            own = (keys >> HALF) == number
            found += _counted(keys[own] & (2**HALF - 1), None if counts is None else counts[own])
    exact = {}
    for rank, number in bins.items():
        before = rank - int(ends[number] - upper[number])
        exact[rank] = _value((number << HALF) | int(np.searchsorted(np.cumsum(lower[number]), before, side="right")))
    return [_between(exact[math.floor(p)], exact[math.ceil(p)], p - math.floor(p)) for p in places]


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of float32 values: their bits, of which those of negative ones run backwards."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _value(key: int) -> float:
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    return float(np.array(bits, np.uint32).view(np.float32))


def _counted(keys: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    if counts is None:
        return np.bincount(keys, minlength=2**HALF)
    found = np.zeros(2**HALF, np.int64)
    np.add.at(found, keys, counts)
    return found
