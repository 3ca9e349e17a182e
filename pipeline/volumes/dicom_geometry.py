"""The grid on which the planes of a DICOM series lie, and the reasons why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE

TURN_LIMIT = 1e-3  # of a direction cosine between planes of one volume: three decimals in the header
GROUP_LIMIT = 1e-2  # of a direction cosine between planes that are meant to be parallel
GAP_LIMIT = 0.01  # of the distance between planes
SHIFT_LIMIT = 0.01  # of a pixel, sideways
RESAMPLE = "resample the series to an even grid with right angles"


@dataclass(frozen=True, eq=False)
class Placed:
    """One plane of pixels and where it lies, in DICOM's LPS millimetres.

    Args:
        path: its file.
        rows: number of rows.
        columns: number of columns.
        spacing: distance between rows, distance between columns.
        depth: distance to the next plane, or thickness, where the header gives one.
        position: (3,), centre of the first pixel; None where the header gives no place.
        orientation: (2, 3), unit vectors along a row and along a column; None together with `position`.
        frame: FrameOfReferenceUID.
    """

    path: Path
    rows: int = 0
    columns: int = 0
    spacing: tuple[float, float] = (1.0, 1.0)
    depth: float | None = None
    position: np.ndarray | None = None
    orientation: np.ndarray | None = None
    frame: str = ""


def are_right_angles(directions: np.ndarray) -> bool:
    """Tell whether two directions are unit vectors at right angles, but for the header's rounding."""
    return bool(np.abs(directions @ directions.T - np.eye(2)).max() <= 2 * TURN_LIMIT)


def orientation_groups(planes: Sequence[Placed]) -> list[list[int]]:
    """Return the indices of the planes that are parallel with their axes, in groups."""
    groups: list[list[int]] = []
    for index, plane in enumerate(planes):
        for group in groups:
            if np.abs(_orientation(plane) - _orientation(planes[group[0]])).max() < GROUP_LIMIT:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def at_one_place(planes: Sequence[Placed]) -> bool:
    """Tell whether any two of parallel planes lie at the same place along their normal."""
    along = np.sort(_along_normal(planes))
    return bool((np.diff(along) <= _same(planes[0])).any())


def stack(planes: Sequence[Placed], flat: bool = False) -> tuple[list[int], np.ndarray]:
    """Return the order of the planes along their normal, and the (4, 4) affine from (x, y, z) to RAS+ millimetres.

    The normal is the cross product of the directions along a row and along a column, so that the axes are
    right-handed in LPS. Any gap, shift or turn by which the planes lie on no grid of right angles is an error.

    Args:
        planes: at least one.
        flat: a single plane needs no place and no depth; without them it lies at 0, 1 mm thick.
    """
    for plane in planes:
        if not flat and plane.position is None:
            reason = "does not say where it lies (ImagePositionPatient, ImageOrientationPatient)"
            raise _problem(plane, reason, "leave it out, or convert the series with its geometry")
    _check_alike(planes)
    first = planes[0]
    if first.position is None:
        return [0], _affine(first, np.eye(3)[:2], np.zeros(3), 1.0)
    axes = _right_angles(first)
    along = _along_normal(planes)
    order = np.argsort(along, kind="stable").tolist()
    ordered = [planes[index] for index in order]
    distance = _distance(ordered, along[order], flat)
    _check_straight(ordered, axes, along[order])
    return order, _affine(first, axes, _position(ordered[0]), distance)


def _affine(plane: Placed, axes: np.ndarray, origin: np.ndarray, distance: float) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, 0] = axes[0] * plane.spacing[1]  # along a row the column changes
    lps[:3, 1] = axes[1] * plane.spacing[0]
    lps[:3, 2] = np.cross(*axes) * distance
    lps[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps + 0.0  # + 0.0 turns -0 into 0


def _check_alike(planes: Sequence[Placed]) -> None:
    first = planes[0]
    for plane in planes[1:]:
        if (plane.rows, plane.columns) != (first.rows, first.columns) or not _near(plane.spacing, first.spacing):
            reason = f"has {_grid(plane)}, but '{first.path.name}' of the same series has {_grid(first)}"
            raise _problem(plane, reason, "put the images of each size into a folder of their own")
        if plane.frame != first.frame:
            reason = f"lies in another frame of reference than '{first.path.name}' of the same series"
            raise _problem(plane, reason, "put the images of each frame of reference into a folder of their own")
        if plane.orientation is not None and np.abs(plane.orientation - _orientation(first)).max() > TURN_LIMIT:
            raise _problem(plane, f"is turned against '{first.path.name}' of the same series", RESAMPLE)


def _right_angles(plane: Placed) -> np.ndarray:
    """Return the two directions with the header's rounding taken off."""
    row, column = _orientation(plane)
    off = max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column))
    if off > TURN_LIMIT:
        reason = f"has directions that are no unit vectors at right angles: {_orientation(plane).tolist()}"
        raise _problem(plane, reason, RESTORE)
    row = row / np.linalg.norm(row)
    column = column - (row @ column) * row
    return np.stack([row, column / np.linalg.norm(column)])


def _distance(ordered: Sequence[Placed], along: np.ndarray, flat: bool) -> float:
    if len(ordered) == 1:
        depth = ordered[0].depth or (1.0 if flat else None)
        if depth is None:
            reason = "is the only slice and does not say how thick it is (SpacingBetweenSlices, SliceThickness)"
            raise _problem(ordered[0], reason, "fetch the whole series, or use a 2D bundle")
        return depth
    gaps = np.diff(along)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two gaps the smaller, so that the other shows a hole
    for before, after, gap in zip(ordered, ordered[1:], gaps.tolist(), strict=False):
        if gap <= _same(before):
            reason = f"lies at the same place as '{before.path.name}'"
            raise _problem(after, reason, "remove the copy, or put each time point into a folder of its own")
        if abs(gap - usual) <= GAP_LIMIT * usual:
            continue
        missing = round(gap / usual) - 1
        where = f"'{before.path.name}' and '{after.path.name}' are {gap:g} mm apart, other slices {usual:g} mm"
        if missing > 0 and abs(gap - (missing + 1) * usual) <= GAP_LIMIT * gap:
            raise _problem(after, f"{missing} of the slices before it are missing: {where}", RESTORE)
        raise _problem(after, f"the slices are at unequal distances: {where}", RESAMPLE)
    return float(along[-1] - along[0]) / len(gaps)


def _check_straight(ordered: Sequence[Placed], axes: np.ndarray, along: np.ndarray) -> None:
    first = ordered[0]
    for plane, height in zip(ordered, along - along[0], strict=True):
        sideways = np.linalg.norm(axes @ (_position(plane) - _position(first)))
        if sideways > TURN_LIMIT * height + SHIFT_LIMIT * min(first.spacing):
            tilt = np.degrees(np.arctan2(sideways, height))
            reason = (
                f"is shifted by {sideways:.3g} mm within its plane against '{first.path.name}': "
                f"the slices are sheared, as by a gantry tilt of {tilt:.2g} degrees"
            )
            raise _problem(plane, reason, RESAMPLE)


def _along_normal(planes: Sequence[Placed]) -> np.ndarray:
    normal = np.cross(*_orientation(planes[0]))
    return np.array([_position(plane) @ normal for plane in planes])


def _grid(plane: Placed) -> str:
    return f"{plane.rows} x {plane.columns} pixels of {plane.spacing[0]} x {plane.spacing[1]} mm"


def _near(spacing: tuple[float, float], other: tuple[float, float]) -> bool:
    return bool(np.allclose(spacing, other, rtol=1e-3))


def _same(plane: Placed) -> float:
    return 1e-3 * min(plane.spacing)


def _orientation(plane: Placed) -> np.ndarray:
    assert plane.orientation is not None
    return plane.orientation


def _position(plane: Placed) -> np.ndarray:
    assert plane.position is not None
    return plane.position


def _problem(plane: Placed, reason: str, remedy: str) -> InputError:
    return InputError(reason, file=plane.path, remedy=remedy)
