"""Planes of a volume as they are looked at: upright, in the patient's axes where a file knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

DIRECTIONS = ("LR", "PA", "IS")  # of the axes of RAS: where it starts and where it goes
NAMES = ("sagittal", "coronal", "axial")  # planes across the first, second and third of them


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane of an image and of the label map on its grid.

    Args:
        title: which one it is, such as "axial, k = 80": number 80 along the file's third axis.
        image: (rows, columns), as looked at.
        labels: the same shape.
        spacing: distance between rows, between columns.
        letters: where left, right, top and bottom lie in the patient, such as "RLAP"; empty where nobody knows.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float]
    letters: str = ""


def fullest_planes(image: np.ndarray, labels: np.ndarray, affine: np.ndarray | None = None) -> list[Plane]:
    """Return copies of the planes across each axis that hold most foreground, the middle ones where there is none.

    With an affine they are turned as radiologists look at them, axial, coronal and sagittal: the patient's right on the
    left, or the front; above is what is higher, or further to the front. An axis of length 1 gives the only plane.

    Args:
        image: (X, Y, Z).
        labels: (X, Y, Z), above 0 in the foreground.
        affine: (4, 4), voxel index to RAS+ millimetres; None for a stack of pages, of shape (page, row, column).
    """
    best = [int(np.argmax(found)) if found.any() else len(found) // 2 for found in _foreground(labels)]
    across = [axis for axis, length in enumerate(labels.shape) if length == 1] or list(range(3))
    if affine is None:
        return [_page_plane(image, labels, axis, best[axis]) for axis in across]
    orientation = nib.orientations.io_orientation(affine)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    planes = [_patient_plane(image, labels, axis, best[axis], orientation, edges) for axis in across]
    return sorted(planes, key=lambda plane: plane.title)  # axial, coronal, sagittal


def _foreground(labels: np.ndarray) -> list[np.ndarray]:
    """Count the foreground of every plane across each axis, a plane at a time."""
    found = [np.zeros(length, np.int64) for length in labels.shape]
    for number, plane in enumerate(labels):
        mask = plane > 0
        found[0][number] = mask.sum()
        found[1] += mask.sum(axis=1)
        found[2] += mask.sum(axis=0)
    return found


def _page_plane(image: np.ndarray, labels: np.ndarray, axis: int, number: int) -> Plane:
    name = ("page", "row", "column")[axis]
    return Plane(f"{name} {number}", _cut(image, axis, number), _cut(labels, axis, number), (1.0, 1.0))


def _patient_plane(
    image: np.ndarray, labels: np.ndarray, axis: int, number: int, orientation: np.ndarray, edges: np.ndarray
) -> Plane:
    """Cut a plane and turn it so that columns go to the left (or to the back) and rows to the back (or down)."""
    normal = int(orientation[axis, 0])
    column_to, row_to = ((1, 2), (0, 2), (0, 1))[normal]  # axes of the patient, RAS
    axes = [int(np.flatnonzero(orientation[:, 0] == to)[0]) for to in (row_to, column_to)]
    flips = [slice(None, None, -1 if orientation[own, 1] > 0 else 1) for own in axes]  # towards L, P and I

    def turned(array: np.ndarray) -> np.ndarray:
        plane = _cut(array, axis, number)
        return (plane if axes[0] < axes[1] else plane.T)[tuple(flips)]

    left, top = DIRECTIONS[column_to][1], DIRECTIONS[row_to][1]
    letters = left + DIRECTIONS[column_to][0] + top + DIRECTIONS[row_to][0]
    title = f"{NAMES[normal]}, {'ijk'[axis]} = {number}"
    return Plane(title, turned(image), turned(labels), (float(edges[axes[0]]), float(edges[axes[1]])), letters)


def _cut(array: np.ndarray, axis: int, number: int) -> np.ndarray:
    index: Sequence[int | slice] = [number if own == axis else slice(None) for own in range(3)]
    return array[tuple(index)].copy()
