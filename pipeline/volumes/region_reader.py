"""Volumes of which any box can be read or written, so that none has to be in memory as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

Box = tuple[slice, ...]  # a slice with start and stop along each spatial axis


class RegionReader(Protocol):
    """A volume that is read box by box.

    Attributes:
        shape: voxels along each spatial axis, in the order of the axes of what is read.
        channels: of each voxel.
        dtype: of what is read.
        affine: (4, 4) float64 from voxel index to RAS+ millimetres; identity where there is no geometry.
        chunk: voxels along each axis that are stored together: boxes along its borders are read fastest.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype
    affine: np.ndarray
    chunk: tuple[int, ...]

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box within the volume: (channels, *box), a copy."""


class LabelStore(Protocol):
    """A label map on disk that is written box by box, in any order and from several processes.

    Attributes:
        shape: voxels along each spatial axis, those of the image.
        dtype: unsigned, of what is kept.
        chunk: voxels along each axis that are stored together: boxes that begin and end at multiples of it share none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Put the labels (*box) of a box in their place; boxes that share no chunk may be written side by side."""

    def read(self, box: Box) -> np.ndarray:
        """Return the labels (*box) that were written, 0 where none were."""


def check_box(box: Box, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the voxels of a box along each axis; raise unless it lies within the shape and has the step 1."""
    inside = len(box) == len(shape) and all(
        part.step in (None, 1) and 0 <= part.start <= part.stop <= length
        for part, length in zip(box, shape, strict=True)
    )
    if not inside:
        raise ValueError(f"the box {box} does not lie within a volume of shape {shape}")
    return tuple(part.stop - part.start for part in box)


def pieces(box: Box, step: tuple[int, ...]) -> Iterator[Box]:
    """Cut a box at the multiples of `step` voxels along each axis, and yield its pieces, the last axis fastest."""
    cuts = [
        [*dict.fromkeys((part.start, *range(part.start - part.start % n + n, part.stop, n), part.stop))]
        for part, n in zip(box, step, strict=True)
    ]
    yield from itertools.product(*([slice(*ends) for ends in itertools.pairwise(cut)] for cut in cuts))


def whole(shape: tuple[int, ...]) -> Box:
    """Return the box of a whole volume."""
    return tuple(slice(0, length) for length in shape)
