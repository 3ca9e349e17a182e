"""Pixel error of the ISBI-2012 challenge: one minus the best F-score of the cell's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.fraction import fraction
from pipeline.metrics.slice_stack import THRESHOLDS, slice_stack


@dataclass(frozen=True)
class PixelDetails:
    """How many pixels are cell: in the truth (slices,), in the prediction and in both (thresholds, slices)."""

    thresholds: tuple[float, ...]
    in_truth: NDArray[np.int64]
    in_prediction: NDArray[np.int64]
    in_both: NDArray[np.int64]

    @property
    def f_scores(self) -> NDArray[np.float64]:
        """F-score of each threshold, its pixels summed over the slices; nan without a cell in the truth."""
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


def pixel_error(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return 1 - max over t of the F-score of the pixels with P(cell) > t; nan (n/a) without a cell in the truth.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape.
        thresholds: the t to try.

    Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics.
    """
    return pixel_error_details(truth, prediction, thresholds).error


def pixel_error_details(
    truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> PixelDetails:
    """Return what `pixel_error` counts at each threshold and slice; the arguments are the same."""
    cells, probability = slice_stack(truth, prediction)
    thresholds = tuple(map(float, thresholds))
    predicted = [probability > t for t in thresholds]
    return PixelDetails(
        thresholds,
        cells.sum(axis=(1, 2)),
        np.array([mask.sum(axis=(1, 2)) for mask in predicted]),
        np.array([(mask & cells).sum(axis=(1, 2)) for mask in predicted]),
    )
