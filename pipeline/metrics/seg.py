"""SEG, the segmentation score of the Cell Tracking Challenge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.contingency import contingency_table


@dataclass(frozen=True)
class SegDetails:
    """Each object of the truth, (objects,): its frame and id, the id that matches it or 0, and their Jaccard index."""

    frames: NDArray[np.int64]
    ids: NDArray[np.int64]
    matches: NDArray[np.int64]
    jaccard: NDArray[np.float64]

    @property
    def score(self) -> float:
        """Mean Jaccard index over the objects of all frames; nan without one."""
        return float(self.jaccard.mean()) if self.jaccard.size else float("nan")


def seg_score(truth: ArrayLike, prediction: ArrayLike, spatial_dims: int | None = None) -> float:
    """Return the mean over all objects R of the truth of |R and S| / |R or S|, S the segment that matches R, in [0, 1].

    S matches R when |R and S| > |R| / 2; without a match R counts 0. Segments that match nothing cost nothing. One id
    is one object, even in two pieces. nan (n/a) without an object in the truth.

    Args:
        truth: object ids, 0 is background; one frame, or frames along the leading axes.
        prediction: object ids of the same shape.
        spatial_dims: how many of the last axes make a frame; all of them by default.

    Maška et al. 2014, A benchmark for comparison of cell tracking algorithms.
    """
    return seg_details(truth, prediction, spatial_dims).score


def seg_details(truth: ArrayLike, prediction: ArrayLike, spatial_dims: int | None = None) -> SegDetails:
    """Return the match of each object of the truth; the arguments are those of `seg_score`."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {prediction.shape}")
    spatial_dims = truth.ndim if spatial_dims is None else spatial_dims
    if not 1 <= spatial_dims <= truth.ndim:
        raise ValueError(f"spatial_dims is {spatial_dims}, but the truth has {truth.ndim} axes")
    frame_shape = truth.shape[truth.ndim - spatial_dims :]
    pairs = zip(truth.reshape(-1, *frame_shape), prediction.reshape(-1, *frame_shape), strict=True)
    parts = [_match(frame, *pair) for frame, pair in enumerate(pairs)]
    return SegDetails(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _match(frame: int, truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> tuple[NDArray[np.generic], ...]:
    table = contingency_table(truth, prediction)
    matches = np.zeros(len(table.truth_ids), np.int64)
    jaccard = np.zeros(len(table.truth_ids))
    # At most one segment can hold more than half of an object.
    k = np.flatnonzero(table.foreground & (2 * table.n > table.truth_sizes[table.i]))
    matches[table.i[k]] = table.prediction_ids[table.j[k]]
    jaccard[table.i[k]] = table.iou[k]
    objects = table.truth_ids != 0
    ids = table.truth_ids[objects]
    return np.full(len(ids), frame), ids, matches[objects], jaccard[objects]
