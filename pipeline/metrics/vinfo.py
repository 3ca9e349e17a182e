"""V-Info after border thinning: how much truth and prediction tell of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.contingency import ContingencyTable
from pipeline.metrics.slice_stack import THRESHOLDS
from pipeline.metrics.thinned_segments import ThinnedScores, thinned_scores


def vinfo(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the F-score of I / H(A) and I / H(B), mean over slices and best over t, in [0, 1]; higher is better.

    A are the truth's cells, B the segments of the thinned prediction, H their entropies and I what they share. A slice
    whose truth is a single cell has H(A) = 0 and scores 0 by definition, whatever the prediction. Slices without a cell
    are left out of the mean; nan (n/a) where no slice has one.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape; at each threshold t, above t is cell.
        thresholds: the t to try.

    Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics.
    """
    return vinfo_details(truth, prediction, thresholds).score


def vinfo_details(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> ThinnedScores:
    """Return the split score I / H(B) and the merge score I / H(A) of each slice; arguments as `vinfo`."""
    return thinned_scores(_split_and_merge, truth, prediction, thresholds)


def _split_and_merge(table: ContingencyTable) -> tuple[float, float]:
    pixels = table.n.sum()
    predicted = table.prediction_ids != 0
    in_object = predicted[table.j]
    # Each of the `alone` pixels is a segment of its own: -1/n ln(1/n), that is ln(n)/n, for each.
    alone = table.n[~in_object].sum() * np.log(pixels) / pixels
    h_truth = _entropy(table.truth_sizes / pixels)
    h_prediction = _entropy(table.prediction_sizes[predicted] / pixels) + alone
    if h_truth == 0:
        return 0.0, 1.0  # nothing to merge
    if h_prediction == 0:
        return 1.0, 0.0  # nothing is split
    shared = h_truth + h_prediction - (_entropy(table.n[in_object] / pixels) + alone)
    return shared / h_prediction, shared / h_truth


def _entropy(p: NDArray[np.float64]) -> float:
    """Sum of -p ln p, in nats."""
    return float(-(p * np.log(p)).sum())
