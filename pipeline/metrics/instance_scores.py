"""Scores of object detection and segmentation: average precision and panoptic quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.contingency import contingency_table
from pipeline.metrics.fraction import fraction

IOU_THRESHOLDS = tuple(step / 20 for step in range(10, 20))  # 0.5, 0.55, ... 0.95


@dataclass(frozen=True)
class InstanceDetails:
    """Matches of objects at each IoU threshold: how many, shape (thresholds,), and the sum of their IoU.

    `in_truth` and `in_prediction` are the numbers of all objects.
    """

    thresholds: tuple[float, ...]
    in_truth: int
    in_prediction: int
    matched: NDArray[np.int64]
    iou_sum: NDArray[np.float64]

    @property
    def average_precision(self) -> NDArray[np.float64]:
        """TP / (TP + FP + FN) at each threshold."""
        return self._of_truth(fraction(self.matched, self.in_truth + self.in_prediction - self.matched))

    @property
    def recognition_quality(self) -> NDArray[np.float64]:
        """TP / (TP + FP / 2 + FN / 2) at each threshold: the F-score of the objects."""
        return self._of_truth(fraction(2 * self.matched, self.in_truth + self.in_prediction))

    @property
    def segmentation_quality(self) -> NDArray[np.float64]:
        """Mean IoU of the matched objects at each threshold; nan where none is."""
        return fraction(self.iou_sum, self.matched)

    @property
    def panoptic_quality(self) -> NDArray[np.float64]:
        """Recognition quality times segmentation quality at each threshold; 0 where nothing matches."""
        return self._of_truth(fraction(2 * self.iou_sum, self.in_truth + self.in_prediction))

    def _of_truth(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores if self.in_truth else np.full_like(scores, np.nan)


def average_precision(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = IOU_THRESHOLDS) -> float:
    """Return the mean over the thresholds of TP / (TP + FP + FN), in [0, 1]; nan (n/a) without an object in the truth.

    Two objects match when their IoU is above the threshold, so at most one matches each.

    Args:
        truth: object ids of any shape, 0 is background.
        prediction: object ids of the same shape.
        thresholds: of the IoU, in [0.5, 1).

    Caicedo et al. 2019, Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl.
    """
    return float(instance_details(truth, prediction, thresholds).average_precision.mean())


def panoptic_quality(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the summed IoU of matches (IoU > 0.5) / (TP + FP / 2 + FN / 2); nan (n/a) without an object in the truth.

    Args:
        truth: object ids of any shape, 0 is background.
        prediction: object ids of the same shape.

    Kirillov et al. 2019, Panoptic segmentation.
    """
    return float(instance_details(truth, prediction, (0.5,)).panoptic_quality[0])


def instance_details(
    truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> InstanceDetails:
    """Return the matches at each threshold; the arguments are those of `average_precision`."""
    if not all(0.5 <= threshold < 1 for threshold in thresholds):
        raise ValueError(f"IoU thresholds are in [0.5, 1), below which a match is not unique: {list(thresholds)}")
    table = contingency_table(truth, prediction)
    iou = table.iou[table.foreground]
    above = iou > np.array(thresholds)[:, None]
    return InstanceDetails(
        tuple(map(float, thresholds)),
        int(np.count_nonzero(table.truth_ids)),
        int(np.count_nonzero(table.prediction_ids)),
        above.sum(axis=1),
        (above * iou).sum(axis=1),
    )
