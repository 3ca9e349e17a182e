"""The axes of a file and those of a network: boxes of one as boxes of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch

from pipeline.transforms.resample_planes import resample_axis, source_of
from pipeline.transforms.to_grid import ToGridd
from pipeline.volumes.region_reader import Box, RegionReader

Size = tuple[int, ...]


@dataclass(frozen=True)
class FileGrid:
    """A file's voxels in the order of the network's axes ("turned"), and how many of them the network sees.

    Attributes:
        order: the file's axis that each axis of the network is.
        flipped: whether it runs the other way.
        turned_size: the file's voxels along the network's axes.
        network_size: voxels of the network's grid, in the same field of view.
        mode: how an image is resampled to it, "linear" or "nearest".
    """

    order: Size
    flipped: tuple[bool, ...]
    turned_size: Size
    network_size: Size
    mode: str = "linear"

    @classmethod
    def of(cls, reader: RegionReader, to_grid: ToGridd | None) -> FileGrid:
        """Return the grid of a volume that `to_grid` would convert; None leaves it as it is."""
        shape = tuple(int(n) for n in reader.shape)
        if to_grid is None:
            return cls(tuple(range(len(shape))), (False,) * len(shape), shape, shape)
        turn, size = to_grid.turned(np.asarray(reader.affine, float), shape)
        order = tuple(int(axis) for axis in np.argsort(turn[:, 0]))
        flipped = tuple(bool(turn[axis, 1] < 0) for axis in order)
        modes = dict(zip(to_grid.keys, to_grid.mode, strict=True))
        return cls(order, flipped, tuple(shape[axis] for axis in order), size, modes.get("image", "linear"))

    @property
    def keeps_size(self) -> bool:
        """Whether no voxel is resampled."""
        return self.turned_size == self.network_size

    def in_file(self, box: Box) -> Box:
        """Return the box of the file that a box of turned voxels is."""
        found: dict[int, slice] = {}
        for axis, flipped, size, part in zip(self.order, self.flipped, self.turned_size, box, strict=True):
            found[axis] = slice(size - part.stop, size - part.start) if flipped else part
        return tuple(found[axis] for axis in range(len(box)))

    def turn(self, voxels: np.ndarray) -> np.ndarray:
        """Return (channels, *box) of the file as a view along the network's axes."""
        turned = voxels.transpose(0, *(axis + 1 for axis in self.order))
        return np.flip(turned, tuple(axis for axis, flipped in enumerate(self.flipped, 1) if flipped))

    def turn_back(self, voxels: np.ndarray) -> np.ndarray:
        """Return (*box) along the network's axes as a view along those of the file."""
        unflipped = np.flip(voxels, tuple(axis for axis, flipped in enumerate(self.flipped) if flipped))
        return unflipped.transpose(np.argsort(self.order))

    def along_network(self, sizes: Sequence[int]) -> Size:
        """Return a number for each axis of the file in the order of the network's."""
        return tuple(int(sizes[axis]) for axis in self.order)

    def borders(self, axis: int, step: int) -> tuple[int, ...]:
        """Return where one of the turned axes is cut every `step` voxels of the file, counted from the file's first."""
        size = self.turned_size[axis]
        cuts = range(step, size, step)
        return (0, *(sorted(size - cut for cut in cuts) if self.flipped[axis] else cuts), size)

    def to_network(self, box: Box) -> Box:
        """Return the voxels of the network's grid that turned voxels are made of on the way back."""
        return self._sources(box, self.network_size, self.turned_size, "linear")

    def to_turned(self, box: Box) -> Box:
        """Return the turned voxels that voxels of the network's grid are made of."""
        return self._sources(box, self.turned_size, self.network_size, self.mode)

    def _sources(self, box: Box, old: Size, new: Size, mode: str) -> Box:
        ends = (
            (part.start, part.stop) if n == m else source_of(part.start, part.stop, n, m, mode)
            for part, n, m in zip(box, old, new, strict=True)
        )
        return tuple(slice(*both) for both in ends)

    def resampled(self, values: torch.Tensor, corner: Sequence[int], box: Box) -> torch.Tensor:
        """Return a box of the network's grid, made of turned voxels (C, *spatial) that begin at `corner`."""
        return resampled(values, corner, box, self.turned_size, self.network_size, self.mode)


def resampled(
    values: torch.Tensor, corner: Sequence[int], box: Box, old: Sequence[int], new: Sequence[int], mode: str
) -> torch.Tensor:
    """Return a box of a volume resampled from `old` to `new` voxels, made of a part (K, *spatial) of it.

    To rounding, this is what the whole volume gives: `torch.nn.functional.interpolate` with half-pixel centres.
    """
    for axis in reversed(range(len(box))):
        span = box[axis].start, box[axis].stop
        values = resample_axis(values, axis + 1, corner[axis], span, old[axis], new[axis], mode)
    return values


def boxes_between(borders: Sequence[Sequence[int]]) -> Iterator[Box]:
    """Yield the boxes that borders along each axis part a volume into, the last axis fastest."""
    yield from product(*([slice(*ends) for ends in pairwise(axis)] for axis in borders))


def grown(chunk: Sequence[int], size: Sequence[int], voxels: int) -> Size:
    """Return the edges of a box of whole chunks, of about so many voxels, but at least one chunk; the last grow first.

    Args:
        chunk: voxels of a chunk along each axis.
        size: of the volume.
        voxels: the most, where a chunk has fewer.
    """
    edges = [min(edge, n) for edge, n in zip(chunk, size, strict=True)]
    for axis in reversed(range(len(edges))):
        others = int(np.prod(edges, dtype=np.int64)) // edges[axis]
        chunks = max(voxels // (others * chunk[axis]), 1)
        edges[axis] = min(chunks * chunk[axis], size[axis])
    return tuple(edges)
