"""Overlap of two label maps: Dice and intersection over union, class by class, and accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def overlap_counts(truth: ArrayLike, prediction: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Return the voxels of each class as rows of (in both, in the truth, in the prediction), shape (classes, 3).

    Args:
        truth: class indices 0..classes-1.
        prediction: class indices of the same shape.
        classes: number of classes, background included.
    """
    truth, prediction = np.asarray(truth).ravel(), np.asarray(prediction).ravel()
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has {truth.size} voxels, the prediction {prediction.size}")
    both = np.bincount(truth[truth == prediction].astype(np.int64), minlength=classes)[:classes]
    in_truth = np.bincount(truth.astype(np.int64), minlength=classes)[:classes]
    in_prediction = np.bincount(prediction.astype(np.int64), minlength=classes)[:classes]
    return np.stack([both, in_truth, in_prediction], axis=1)


def dice(truth: ArrayLike, prediction: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Return 2 |T and P| / (|T| + |P|) for each class; nan (n/a) where the truth has no voxel of it.

    Args:
        truth: class indices 0..classes-1.
        prediction: class indices of the same shape.
        classes: number of classes, background included.
    """
    both, in_truth, in_prediction = overlap_counts(truth, prediction, classes).T
    return _ratio(2 * both, in_truth + in_prediction, in_truth)


def iou(truth: ArrayLike, prediction: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Return |T and P| / |T or P| for each class; nan (n/a) where the truth has none. Arguments as `dice`."""
    both, in_truth, in_prediction = overlap_counts(truth, prediction, classes).T
    return _ratio(both, in_truth + in_prediction - both, in_truth)


def accuracy(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the share of voxels whose class is right, background included; nan (n/a) where the truth is only that.

    Args:
        truth: class indices, 0 is background.
        prediction: class indices of the same shape.
    """
    truth, prediction = np.asarray(truth).ravel(), np.asarray(prediction).ravel()
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has {truth.size} voxels, the prediction {prediction.size}")
    return float(np.mean(truth == prediction)) if truth.any() else float("nan")


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64], in_truth: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(in_truth > 0, part / np.maximum(whole, 1), np.nan)
