"""One sparse table of how many pixels two labellings share, from which the scores of objects are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ContingencyTable:
    """`n[k]` pixels lie in object `truth_ids[i[k]]` of the truth and `prediction_ids[j[k]]` of the prediction.

    Only the K pairs that share a pixel are kept; 0, the background, is an id like the others. The sizes are those of
    whole objects, in pixels: `truth_sizes[i]` is the sum of the n of all pairs with this i.
    """

    truth_ids: Ints
    truth_sizes: Ints
    prediction_ids: Ints
    prediction_sizes: Ints
    i: Ints
    j: Ints
    n: Ints

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """Which pairs have an object on both sides, shape (K,)."""
        return (self.truth_ids[self.i] != 0) & (self.prediction_ids[self.j] != 0)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, shape (K,), in (0, 1]."""
        return self.n / (self.truth_sizes[self.i] + self.prediction_sizes[self.j] - self.n)


def contingency_table(truth: ArrayLike, prediction: ArrayLike) -> ContingencyTable:
    """Count the pixels that each object of the truth shares with each object of the prediction.

    Args:
        truth: integer ids >= 0 of any shape.
        prediction: integer ids >= 0 of the same shape.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {prediction.shape}")
    truth_ids, truth_sizes, i = _distinct(_as_ids(truth))
    prediction_ids, prediction_sizes, j = _distinct(_as_ids(prediction))
    pairs, n, _ = _distinct(i * len(prediction_ids) + j)
    i, j = np.divmod(pairs, max(len(prediction_ids), 1))
    return ContingencyTable(truth_ids, truth_sizes, prediction_ids, prediction_sizes, i, j, n)


def _as_ids(labels: NDArray[np.generic]) -> Ints:
    if labels.dtype.kind not in "bui":
        raise ValueError(f"object ids are integers, not {labels.dtype}")
    ids = labels.ravel().astype(np.int64)
    if ids.min(initial=0) < 0:
        raise ValueError(f"object ids start at 0, but {ids.min()} is among them")
    return ids


def _distinct(values: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the distinct values in rising order, how often each occurs, and the index of each element's value."""
    if values.max(initial=0) > 4 * values.size + 2**16:  # ids far apart: sorting costs less than a bin for each
        distinct, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        return distinct, counts, index
    counts = np.bincount(values)
    distinct = np.flatnonzero(counts)
    return distinct, counts[distinct], (np.cumsum(counts > 0) - 1)[values]
