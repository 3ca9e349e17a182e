"""Segments with borders of one pixel, and scores of them that do not depend on how wide a border is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.segmentation import watershed

from pipeline.metrics.contingency import ContingencyTable, contingency_table
from pipeline.metrics.fraction import fraction
from pipeline.metrics.slice_details import SliceDetails
from pipeline.metrics.slice_stack import label_cells, slice_stack


@dataclass(frozen=True)
class ThinnedScores(SliceDetails):
    """Split and merge scores in [0, 1], both (thresholds, slices); nan for a slice without a cell."""

    split: NDArray[np.float64]
    merge: NDArray[np.float64]

    @property
    def slice_f_scores(self) -> NDArray[np.float64]:
        """Harmonic mean of split and merge score, shape (thresholds, slices); 0 where both are 0."""
        both = self.split + self.merge
        return 2 * self.split * self.merge / np.where(both == 0, 1, both)

    @property
    def f_scores(self) -> NDArray[np.float64]:
        """Mean over the slices that have a cell, shape (thresholds,)."""
        has_cell = ~np.isnan(self.split[0])
        return fraction(self.slice_f_scores[:, has_cell].sum(axis=1), has_cell.sum())

    @property
    def best(self) -> int:
        """Index of the threshold with the highest F-score."""
        return int(np.argmax(self.f_scores))

    @property
    def score(self) -> float:
        """F-score at the best threshold."""
        return float(self.f_scores[self.best])

    def __float__(self) -> float:
        return self.score


def thinned_segments(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the objects of one slice, grown at one pace until a line of one pixel parts them; 0 is the line.

    They are the basins of a watershed of the mask: objects and basins are 4-connected, and there are as many.

    Args:
        mask: (height, width), True in objects.
    """
    objects = label_cells(mask)
    if not mask.any():
        return objects
    segments = watershed(~mask, objects, connectivity=1, watershed_line=True)
    _thin(segments)
    return segments


def _thin(segments: NDArray[np.int32]) -> None:
    """Give each pixel of the line that touches one basin only to that basin: fronts that meet leave a few of them."""
    beyond = np.iinfo(segments.dtype).max
    while True:
        padded = np.pad(segments, 1)
        near = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        lowest, highest = np.where(near > 0, near, beyond).min(axis=0), near.max(axis=0)
        loose = np.argwhere((segments == 0) & (lowest == highest)).tolist()
        if not loose:
            return
        for row, column in loose:  # one after the other, or two basins could meet
            rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            touched = {*segments[rows, column].tolist(), *segments[row, columns].tolist()} - {0}
            if len(touched) == 1:
                segments[row, column] = touched.pop()


def thinned_scores(
    split_and_merge: Callable[[ContingencyTable], tuple[float, float]],
    truth: ArrayLike,
    prediction: ArrayLike,
    thresholds: Sequence[float],
) -> ThinnedScores:
    """Score the thinned prediction against the truth's cells, in each slice by itself.

    Args:
        split_and_merge: makes the two scores from the table of the pixels in the truth's cells.
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape; at each threshold t, above t is cell.
        thresholds: the t to try.
    """
    thresholds = tuple(map(float, thresholds))
    cells, probability = slice_stack(truth, prediction)
    scores = np.full((2, len(thresholds), len(cells)), np.nan)
    for s in np.flatnonzero(cells.any(axis=(1, 2))):
        objects = label_cells(cells[s])[cells[s]]
        for t, threshold in enumerate(thresholds):
            segments = thinned_segments(probability[s] > threshold)[cells[s]]
            scores[:, t, s] = split_and_merge(contingency_table(objects, segments))
    return ThinnedScores(thresholds, *scores)
