"""What voxels must be, whichever format they come from or go to: finite, whole numbers in labels, opaque."""

from __future__ import annotations

import numpy as np

from pipeline.errors import InputError

FEW = 16  # labels that are counted one after the other


def as_labels(array: np.ndarray) -> np.ndarray:
    """Return integers as they are, and whole numbers stored as floats as int64; anything else raises."""
    if array.dtype.kind != "f":
        return array
    odd = array[array != np.rint(array)]  # NaN is odd too
    if odd.size:
        raise InputError(
            f"{odd.size} label values are not whole numbers, such as {odd[0]}",
            remedy="store class or instance numbers, without interpolation or scaling",
        )
    exact_below = 2 ** (np.finfo(array.dtype).nmant + 1)  # float32: 2^24 = 16777216
    if np.abs(array).max(initial=0) >= exact_below:
        raise InputError(
            f"{array.dtype} labels from {exact_below} on are not exact", remedy="store the labels as integers"
        )
    return array.astype(np.int64)


def check_finite(array: np.ndarray) -> None:
    """Raise if a channel-first array holds NaN or infinity, and name the first such voxel."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise InputError(
            f"{len(bad)} of {array.size} voxels are NaN or infinite, the first at {tuple(bad[0, 1:].tolist())}",
            remedy="replace them by the background's value, or leave the case out",
        )


def without_alpha(array: np.ndarray) -> np.ndarray:
    """Take the last channel off, which must be opaque everywhere: the largest integer, or 1.0."""
    opaque = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    if (array[-1] != opaque).any():
        raise InputError("has transparent pixels", remedy="save it without an alpha channel")
    return array[:-1]


def count_labels(labels: np.ndarray, at_least: int = 0) -> np.ndarray:
    """Return how many voxels have the label 0, 1, ..., `at_least` so many numbers; plane by plane, to save memory."""
    counts = np.zeros(at_least, np.int64)
    for plane in labels:
        found = _count_few(plane, at_least) if at_least <= FEW else None
        if found is None:
            found = np.bincount(plane.ravel().astype(np.intp, copy=False), minlength=len(counts))
        longer, shorter = (found, counts) if len(found) >= len(counts) else (counts, found)
        longer[: len(shorter)] += shorter
        counts = longer
    return counts


def _count_few(plane: np.ndarray, labels: int) -> np.ndarray | None:
    """Count 0, 1, ..., `labels` - 1, several times as fast as bincount; None where there are others."""
    found = np.array([np.count_nonzero(plane == label) for label in range(labels)], np.int64)
    return found if found.sum() == plane.size else None
