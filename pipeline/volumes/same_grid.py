"""Whether two volumes lie on one grid, but for the rounding that file formats bring."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pipeline.volumes.header import VolumeHeader

Difference = Literal["shape", "spacing", "direction", "origin"]

PART = 0.05  # of a voxel edge, by which rounding may move a voxel along that axis
SPACING_LIMIT = 1e-3  # relative; float32 rounds by 6e-8, a text with four digits by 5e-5
TURN_LIMIT = 2e-3  # a qform's float32 quaternion is off by up to 1e-3 close to half a turn, where most scanners work
ORIGIN_STEP = 2.0**-22  # relative: two roundings to float32 of 2^-24 each, doubled for a change of unit in between


def grid_difference(first: VolumeHeader, other: VolumeHeader) -> Difference | None:
    """Return in which respect the grid of `other` is not that of `first`; None where it is the same.

    What rounding may do is allowed for part by part, since it scales differently:

    - spacing: 0.1 %, and what moves the far end of an axis by 5 % of a voxel: |s' / s - 1| (n - 1) <= 0.05;
    - direction: 0.002 for each cosine, as between the two forms of a NIfTI, however far that turns a distant corner;
    - origin: along each axis 5 % of the voxel, and 2^-22 of its largest coordinate, which is 0.0002 mm at 1000 mm.

    Args:
        first: the one.
        other: the other.
    """
    if other.shape != first.shape:
        return "shape"
    lengths, others = (np.linalg.norm(header.affine[:3, :3], axis=0) for header in (first, other))
    steps = np.array([*first.shape, 1])[:3] - 1  # of a 2D image: none along the third axis
    stretch = np.abs(others / lengths - 1)
    if (stretch > SPACING_LIMIT).any() or (stretch * steps > PART).any():
        return "spacing"
    axes = first.affine[:3, :3] / lengths
    if np.abs(other.affine[:3, :3] / others - axes).max() > TURN_LIMIT:
        return "direction"
    shift = np.abs(axes.T @ (other.affine[:3, 3] - first.affine[:3, 3]))
    rounding = ORIGIN_STEP * np.abs([first.affine[:3, 3], other.affine[:3, 3]]).max()
    return "origin" if (shift > PART * lengths + rounding).any() else None


def turn_between(first: VolumeHeader, other: VolumeHeader) -> float:
    """Return the largest angle between an axis of one grid and the same one of the other, in degrees."""
    axes, others = (header.affine[:3, :3] / np.linalg.norm(header.affine[:3, :3], axis=0) for header in (first, other))
    chord = np.linalg.norm(axes - others, axis=0).max()
    return math.degrees(2 * math.asin(min(chord / 2, 1.0)))
