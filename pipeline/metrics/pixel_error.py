"""Pixel error of the ISBI-2012 challenge: one minus the best F-score of the cell's pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pipeline.metrics.f_scores import FScores
from pipeline.metrics.slice_stack import THRESHOLDS, slice_stack


def pixel_error(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return 1 - max over t of the F-score of the pixels with P(cell) > t; nan (n/a) without a cell in the truth.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape.
        thresholds: the t to try.

    Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics.
    """
    return pixel_error_details(truth, prediction, thresholds).error


def pixel_error_details(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> FScores:
    """Return the pixels of cells, in truth, prediction and both; the arguments are those of `pixel_error`."""
    cells, probability = slice_stack(truth, prediction)
    thresholds = tuple(map(float, thresholds))
    predicted = [probability > t for t in thresholds]
    return FScores(
        thresholds,
        cells.sum(axis=(1, 2)),
        np.array([mask.sum(axis=(1, 2)) for mask in predicted]),
        np.array([(mask & cells).sum(axis=(1, 2)) for mask in predicted]),
    )
