"""The challenge's scores of numbered objects: those of the map that is handed in with lines between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.rand_error import rand_error
from pipeline.metrics.vrand import vrand

HALF = (0.5,)  # the only threshold that a map of 0 and 1 has


def object_rand_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the Rand error of numbered objects, drawn with a line between those that touch; nan without a truth.

    Args:
        truth: objects that do not touch, one slice (height, width) or a stack of them; 0 is membrane.
        prediction: numbered objects of the same shape; they may touch.
    """
    return rand_error(np.asarray(truth) > 0, with_lines(prediction), HALF)


def object_vrand(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the V-Rand of the same map in [0, 1]; higher is better. The arguments are those of `object_rand_error`."""
    return vrand(np.asarray(truth) > 0, with_lines(prediction), HALF)


def with_lines(objects: ArrayLike) -> NDArray[np.float64]:
    """Return 1 in objects and 0 elsewhere, also at each pixel below or to the right of which another object begins.

    Args:
        objects: numbers, (height, width) or (slices, height, width).
    """
    ids = np.asarray(objects)
    kept = ids != 0
    for axis in (ids.ndim - 2, ids.ndim - 1):
        first, second = (np.take(ids, range(*ends), axis) for ends in ((0, ids.shape[axis] - 1), (1, ids.shape[axis])))
        touch = np.zeros(ids.shape, bool)
        np.moveaxis(touch, axis, 0)[:-1] = np.moveaxis((first != second) & (first != 0) & (second != 0), axis, 0)
        kept &= ~touch
    return kept.astype(np.float64)
