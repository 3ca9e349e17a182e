"""Rand error of the ISBI-2012 challenge: which pixels of cells belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.contingency import ContingencyTable, contingency_table
from pipeline.metrics.f_scores import FScores
from pipeline.metrics.fraction import fraction
from pipeline.metrics.slice_stack import THRESHOLDS, label_cells, slice_stack


class RandDetails(FScores):
    """Pairs of pixels that share an object; a slice without a cell has none."""

    @property
    def rand_split(self) -> NDArray[np.float64]:
        """Of the truth's pairs, the part that is still together: falls with each split; shape (thresholds,)."""
        return fraction(self.in_both.sum(axis=1), self.in_truth.sum())

    @property
    def rand_merge(self) -> NDArray[np.float64]:
        """Of the prediction's pairs, the part that belongs together: falls with each merge; shape (thresholds,)."""
        return fraction(self.in_both.sum(axis=1), self.in_prediction.sum(axis=1))

    @property
    def slice_f_scores(self) -> NDArray[np.float64]:
        """The F-score of each slice by itself, shape (thresholds, slices)."""
        return fraction(2 * self.in_both, self.in_truth + self.in_prediction)


def rand_error(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return 1 - max over t of the F-score of pairs of pixels; nan (n/a) without a cell in the truth.

    Objects are 4-connected, in each slice by itself. Only the truth's cells count; a pixel of theirs that the
    prediction calls membrane is an object of its own.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape; at each threshold t, above t is cell.
        thresholds: the t to try.

    Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics.
    """
    return rand_error_details(truth, prediction, thresholds).error


def rand_error_details(
    truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> RandDetails:
    """Return the pairs of pixels, in truth, prediction and both; the arguments are those of `rand_error`."""
    thresholds = tuple(map(float, thresholds))
    cells, probability = slice_stack(truth, prediction)
    pairs = np.zeros((3, len(thresholds), len(cells)), np.int64)
    for s, (mask, slice_probability) in enumerate(zip(cells, probability, strict=True)):
        objects = label_cells(mask)[mask]
        for t, threshold in enumerate(thresholds):
            predicted = label_cells(slice_probability > threshold)[mask]
            pairs[:, t, s] = pairs_of_pixels(contingency_table(objects, predicted))
    in_truth, in_prediction, in_both = pairs
    return RandDetails(thresholds, in_truth[0], in_prediction, in_both)


def pairs_of_pixels(table: ContingencyTable) -> tuple[int, int, int]:
    """Return how many ordered pairs share an object of the truth, of the prediction, and of both.

    A pixel pairs with itself too. The table is of the pixels in the truth's cells; each of those that the prediction
    calls 0 pairs with itself alone.
    """
    predicted = table.prediction_ids != 0
    in_object = predicted[table.j]
    alone = table.n[~in_object].sum()
    in_prediction = (table.prediction_sizes[predicted] ** 2).sum() + alone
    in_both = (table.n[in_object] ** 2).sum() + alone
    return int((table.truth_sizes**2).sum()), int(in_prediction), int(in_both)
