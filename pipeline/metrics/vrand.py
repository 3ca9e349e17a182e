"""V-Rand after border thinning, by which the ISBI-2012 challenge ranks since 2015."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from pipeline.metrics.contingency import ContingencyTable
from pipeline.metrics.rand_error import pairs_of_pixels
from pipeline.metrics.slice_stack import THRESHOLDS
from pipeline.metrics.thinned_segments import ThinnedScores, thinned_scores


def vrand(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the Rand F-score of the thinned prediction, mean over slices and best over t, in [0, 1]; higher is better.

    Slices without a cell are left out of the mean; nan (n/a) where no slice has one.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape; at each threshold t, above t is cell.
        thresholds: the t to try.

    Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics.
    """
    return vrand_details(truth, prediction, thresholds).score


def vrand_details(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> ThinnedScores:
    """Return the split and merge scores of each threshold and slice; the arguments are those of `vrand`."""
    return thinned_scores(_split_and_merge, truth, prediction, thresholds)


def _split_and_merge(table: ContingencyTable) -> tuple[float, float]:
    in_truth, in_prediction, in_both = pairs_of_pixels(table)
    return in_both / in_truth, in_both / in_prediction
