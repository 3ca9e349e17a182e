"""F-scores over the thresholds of a probability, made of what truth and prediction have and share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.fraction import fraction
from pipeline.metrics.slice_details import SliceDetails


@dataclass(frozen=True)
class FScores(SliceDetails):
    """How much the truth has (slices,), the prediction has and both share (thresholds, slices), of pixels or pairs.

    Everything is nan (n/a) where the truth has nothing.
    """

    in_truth: NDArray[np.int64]
    in_prediction: NDArray[np.int64]
    in_both: NDArray[np.int64]

    @property
    def f_scores(self) -> NDArray[np.float64]:
        """2 both / (truth + prediction), summed over the slices before it is divided, shape (thresholds,)."""
        f = fraction(2 * self.in_both.sum(axis=1), self.in_truth.sum() + self.in_prediction.sum(axis=1))
        return f if self.in_truth.any() else np.full_like(f, np.nan)

    @property
    def best(self) -> int:
        """Index of the threshold with the highest F-score."""
        return int(np.argmax(self.f_scores))

    @property
    def error(self) -> float:
        """1 - F-score at the best threshold."""
        return 1 - float(self.f_scores[self.best])

    def __float__(self) -> float:
        return self.error
