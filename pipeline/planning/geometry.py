"""The grid of a network, the crop that it sees and its levels, from the sizes and spacings of the cases.

The rules are in the spirit of nnU-Net's (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary
note 2); how large a crop may be follows what a processor or a GPU computes in a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.planning.facts import Facts

ANISOTROPIC = 3  # times as coarse along one axis as along the others: from there on that axis is treated apart
FEW_SLICES = 8  # along an axis with fewer, nothing is learnt by convolutions across it
MOST_VOXELS = {("cpu", 2): 256**2, ("cpu", 3): 48 * 64 * 48, ("cuda", 2): 512**2, ("cuda", 3): 128**3}  # of a crop
LEAST_VOXELS = {2: 128**2, 3: 32**3}  # of a crop that is made smaller to save time
BATCH = {("cpu", 2): 4, ("cpu", 3): 2, ("cuda", 2): 12, ("cuda", 3): 2}
BYTES_PER_VOXEL = 4_000  # of a GPU's memory that training takes for each voxel of a batch, about, 32 first channels
LOWEST_EDGE = {2: 8, 3: 4}  # pixels or voxels of the lowest level, at least
MULTIPLE = 4  # of which a crop's edges are; up to the product of the strides, half of a small crop would be made up
MOST_LEVELS = {"cpu": 5, "cuda": 6}
MOST_CHANNELS = 256  # of a level


@dataclass(frozen=True)
class Geometry:
    """Crop and levels that fit each other.

    Args:
        spacing: mm per axis of the grid; None where the files tell none.
        size: voxels of the median case on that grid.
        crop: voxels per axis.
        strides: factor per step down and axis.
        flat_axis: the axis that convolutions do not cross; None where they cross all.
    """

    spacing: tuple[float, ...] | None
    size: tuple[int, ...]
    crop: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    flat_axis: int | None

    @property
    def covers(self) -> bool:
        """Whether a crop is as large as the median case."""
        return all(length >= whole for length, whole in zip(self.crop, self.size, strict=True))

    @property
    def lowest(self) -> tuple[int, ...]:
        """Voxels of a crop on the lowest level: a step down takes the odd one of an odd number along."""
        lengths = self.crop
        for step in self.strides:
            lengths = tuple(math.ceil(length / factor) for length, factor in zip(lengths, step, strict=True))
        return lengths


def choose_geometry(facts: Facts, most: int | None = None) -> Geometry:
    """Choose spacing, crop and levels.

    The crop is a cube in millimetres, as large as `MOST_VOXELS` allow, cut where the median case ends, so that what is
    short of the image along one axis is added along the others. An axis is halved while it is no more than twice as
    coarse as the finest that still can be, and while `LOWEST_EDGE` remain.

    Args:
        facts: of data and machine.
        most: voxels of a crop; None: `most_voxels`.
    """
    spacing = target_spacing(facts)
    size = size_on_grid(facts, spacing)
    edges = spacing or (1.0,) * facts.spatial_dims
    flat = size.index(min(size)) if facts.spatial_dims == 3 and min(size) < FEW_SLICES else None
    crop = _cut_cube(size, edges, most or most_voxels(facts), flat)
    limits = LOWEST_EDGE[facts.spatial_dims], MOST_LEVELS[facts.device]
    strides = _strides(crop, edges, *limits, flat)
    rounded = (length if axis == flat else math.ceil(length / MULTIPLE) * MULTIPLE for axis, length in enumerate(crop))
    return Geometry(spacing, size, tuple(rounded), strides, flat)


def target_spacing(facts: Facts) -> tuple[float, ...] | None:
    """Return the median spacing, along one much coarser axis the 10th percentile; None without any."""
    usual = facts.median_spacing
    if usual is None or facts.spacings is None:
        return None
    target, coarse = list(usual), coarse_axis(usual)
    if coarse is not None:
        fine = max(edge for axis, edge in enumerate(usual) if axis != coarse)
        target[coarse] = max(float(np.percentile([edges[coarse] for edges in facts.spacings], 10)), fine)
    return tuple(float(f"{edge:.4g}") for edge in target)


def coarse_axis(edges: Sequence[float]) -> int | None:
    """Return the axis along which voxels are at least 3 times as long as along both others; None if there is none."""
    longest = max(range(len(edges)), key=lambda axis: edges[axis])
    others = [edge for axis, edge in enumerate(edges) if axis != longest]
    return longest if edges[longest] >= ANISOTROPIC * max(others) else None


def size_on_grid(facts: Facts, spacing: Sequence[float] | None) -> tuple[int, ...]:
    """Return the median size of a case after resampling, per axis."""
    if spacing is None or facts.spacings is None:
        return facts.median_shape
    sizes = [
        [length * edge / aim for length, edge, aim in zip(shape, edges, spacing, strict=True)]
        for shape, edges in zip(facts.shapes, facts.spacings, strict=True)
    ]
    return tuple(max(round(float(np.median(lengths))), 1) for lengths in zip(*sizes, strict=True))


def most_voxels(facts: Facts) -> int:
    """Return how many voxels a crop may have."""
    most = MOST_VOXELS[facts.device, facts.spatial_dims]
    if facts.device == "cuda":
        most = min(most, facts.memory // (BYTES_PER_VOXEL * batch_size(facts)))
    return most


def batch_size(facts: Facts) -> int:
    """Return how many crops a step takes."""
    return BATCH[facts.device, facts.spatial_dims]


def channels(width: int, levels: int) -> list[int]:
    """Return the channels of each level: doubled on the way down, up to `MOST_CHANNELS`."""
    return [min(width * 2**level, MOST_CHANNELS) for level in range(levels)]


def _cut_cube(size: Sequence[int], edges: Sequence[float], most: int, flat: int | None) -> tuple[int, ...]:
    """The largest cube, cut to `size`, that has `most` voxels; one voxel along the flat axis."""

    def cut(width: float) -> tuple[int, ...]:
        lengths = [max(1, min(n, round(width / edge))) for n, edge in zip(size, edges, strict=True)]
        return tuple(1 if axis == flat else length for axis, length in enumerate(lengths))

    low, high = 0.0, max(length * edge for length, edge in zip(size, edges, strict=True))
    if math.prod(cut(high)) <= most:
        return cut(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(cut(middle)) <= most else (low, middle)
    return cut(low)


def _strides(
    crop: Sequence[int], edges: Sequence[float], lowest: int, levels: int, flat: int | None
) -> tuple[tuple[int, ...], ...]:
    lengths, sizes = list(map(float, crop)), list(edges)
    steps: list[tuple[int, ...]] = []
    while len(steps) < levels - 1:
        able = [axis for axis, length in enumerate(lengths) if axis != flat and length / 2 >= lowest]
        if not able:
            break
        finest = min(sizes[axis] for axis in able)
        halved = [axis for axis in able if sizes[axis] <= 2 * finest]
        steps.append(tuple(2 if axis in halved else 1 for axis in range(len(lengths))))
        for axis in halved:
            lengths[axis], sizes[axis] = lengths[axis] / 2, sizes[axis] * 2
    return tuple(steps) or (tuple(1 for _ in crop),)
