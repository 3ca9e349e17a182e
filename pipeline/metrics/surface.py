"""Distances between the surfaces of two segmentations, class by class, in physical units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each surface voxel of one mask lies from the nearest of the other, in the unit of the spacing.

    `from_truth` (N,) and `from_prediction` (M,): N or M is 0 for an empty mask, from which the other is infinitely far.
    Scores are nan (n/a) where the truth is empty.
    """

    from_truth: Distances
    from_prediction: Distances

    def hausdorff(self, percentile: float = 95.0) -> float:
        """Return the larger of the two percentiles, 100 being the maximum; inf for an empty prediction."""
        if not (self.from_truth.size and self.from_prediction.size):
            return self._far()
        return float(max(np.percentile(side, percentile) for side in (self.from_truth, self.from_prediction)))

    def average(self) -> float:
        """Return the mean over all surface voxels of both masks; inf for an empty prediction."""
        if not (self.from_truth.size and self.from_prediction.size):
            return self._far()
        return float(np.concatenate([self.from_truth, self.from_prediction]).mean())

    def dice(self, tolerance: float) -> float:
        """Return the share of surface voxels of both masks that lie within the tolerance; 0 for an empty prediction."""
        if not self.from_truth.size:
            return float("nan")
        return float((np.concatenate([self.from_truth, self.from_prediction]) <= tolerance).mean())

    def _far(self) -> float:
        return float("inf") if self.from_truth.size else float("nan")


def surface_distances(
    truth: ArrayLike, prediction: ArrayLike, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """Measure between the centres of surface voxels: those of a mask with a face on the outside or on the image's rim.

    Args:
        truth: mask of any number of axes.
        prediction: mask of the same shape.
        spacing: size of a voxel along each axis, in millimetres or any other unit; 1 by default.
    """
    truth, prediction = np.asarray(truth, bool), np.asarray(prediction, bool)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {prediction.shape}")
    size = np.ones(truth.ndim) if spacing is None else np.asarray(spacing, np.float64)
    if size.shape != (truth.ndim,) or not (size > 0).all():
        raise ValueError(f"spacing is one positive number for each of the {truth.ndim} axes, not {spacing}")
    of_truth, of_prediction = _surface(truth) * size, _surface(prediction) * size
    return SurfaceDistances(_nearest(of_truth, of_prediction), _nearest(of_prediction, of_truth))


def hd95(
    truth: ArrayLike, prediction: ArrayLike, classes: int, spacing: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the 95th percentile Hausdorff distance of each class: the larger of the two directed percentiles.

    nan (n/a) where the truth lacks the class, and for the background, index 0; inf where only the prediction lacks it.

    Args:
        truth: class indices 0..classes-1.
        prediction: class indices of the same shape.
        classes: number of classes, background included.
        spacing: size of a voxel along each axis; the result is in its unit.
    """
    return _by_class(SurfaceDistances.hausdorff, truth, prediction, classes, spacing)


def average_surface_distance(
    truth: ArrayLike, prediction: ArrayLike, classes: int, spacing: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the mean distance of each class, over the surface voxels of both sides; all else is as in `hd95`."""
    return _by_class(SurfaceDistances.average, truth, prediction, classes, spacing)


def surface_dice(
    truth: ArrayLike,
    prediction: ArrayLike,
    classes: int,
    tolerance: float | Sequence[float],
    spacing: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Return the normalised surface dice of each class: the share of surface voxels within the tolerance, in [0, 1].

    nan (n/a) where the truth lacks the class, and for the background, index 0; 0 where only the prediction lacks it.

    Args:
        truth: class indices 0..classes-1.
        prediction: class indices of the same shape.
        classes: number of classes, background included.
        tolerance: in the unit of the spacing; one number, or one for each class with the background's first.
        spacing: size of a voxel along each axis.

    Nikolov et al. 2018, Deep learning to achieve clinically applicable segmentation of head and neck anatomy.
    """
    tolerances = np.broadcast_to(np.asarray(tolerance, np.float64), (classes,))
    found = surface_distances_by_class(truth, prediction, classes, spacing)
    return np.array([np.nan, *(found[k - 1].dice(tolerances[k]) for k in range(1, classes))])


def surface_distances_by_class(
    truth: ArrayLike, prediction: ArrayLike, classes: int, spacing: Sequence[float] | None = None
) -> list[SurfaceDistances]:
    """Return the distances of classes 1..classes-1, from which the scores are made; arguments as `hd95`."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    return [surface_distances(truth == k, prediction == k, spacing) for k in range(1, classes)]


def _by_class(
    score: Callable[[SurfaceDistances], float],
    truth: ArrayLike,
    prediction: ArrayLike,
    classes: int,
    spacing: Sequence[float] | None,
) -> NDArray[np.float64]:
    found = surface_distances_by_class(truth, prediction, classes, spacing)
    return np.array([np.nan, *(score(distances) for distances in found)])


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the indices of the surface voxels, (voxels, axes)."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return np.zeros((0, mask.ndim))
    inside = mask[boxes[0]]
    surface = inside & ~ndimage.binary_erosion(inside)
    corner = np.array([axis.start for axis in boxes[0]])
    return (np.argwhere(surface) + corner).astype(np.float64)


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> Distances:
    if not (len(points) and len(others)):
        return np.full(len(points), np.inf)
    return KDTree(others).query(points)[0]
