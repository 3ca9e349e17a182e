"""The way back from a network's grid to a file's voxels, for a box that comes plane by plane."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch

from pipeline.blockwise.file_grid import FileGrid, resampled
from pipeline.transforms.resample_planes import Planes, source_of
from pipeline.volumes.region_reader import Box

PIECE = 2**22  # values that are given at once


class RegionResampler:
    """Resample the planes of a box of the network's grid to a box of turned voxels.

    Args:
        grid: both grids.
        box: turned voxels; the planes that come are those of `grid.to_network(box)`.
        mode: "linear" or "nearest".
    """

    def __init__(self, grid: FileGrid, box: Box, mode: str = "linear") -> None:
        self.grid, self.box, self.mode = grid, box, mode
        self.source = grid.to_network(box)
        self.done, self.known = box[0].start, self.source[0].start
        self.held = torch.empty(0)  # planes (K, n, ...), of which the last is that before `known`

    def push(self, planes: torch.Tensor) -> Iterator[Planes]:
        """Take the next planes (K, n, *across), and yield (start, stop, planes) of all turned ones that are certain."""
        if self.grid.keeps_size:
            start, self.done = self.done, self.done + planes.shape[1]
            yield start, self.done, planes
            return
        planes = planes if self.mode == "nearest" or planes.is_floating_point() else planes.double()
        self.held = torch.cat([self.held, planes], 1) if self.held.numel() else planes.clone()
        self.known += planes.shape[1]
        across = [part.stop - part.start for part in self.box[1:]]
        step = max(PIECE // (len(planes) * prod(across)), 1)
        while self.done < self.box[0].stop and (ready := self._ready(step)) > self.done:
            yield self.done, ready, self._made(self.done, ready)
            self.done = ready
        if self.done < self.box[0].stop:
            first = max(self._sources(self.done, self.done + 1)[0], self._begin)
            self.held = self.held[:, first - self._begin :].clone()

    @property
    def _begin(self) -> int:
        return self.known - self.held.shape[1]

    def _sources(self, start: int, stop: int) -> tuple[int, int]:
        return source_of(start, stop, self.grid.network_size[0], self.grid.turned_size[0], self.mode)

    def _ready(self, most: int) -> int:
        """The first turned plane that needs others than those which have come, or `most` planes on."""
        low, high = self.done, min(self.done + most, self.box[0].stop)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._sources(self.done, middle)[1] <= self.known else (low, middle - 1)
        return low

    def _made(self, start: int, stop: int) -> torch.Tensor:
        first, end = self._sources(start, stop)
        planes = self.held[:, first - self._begin : end - self._begin]
        corner = [first, *(part.start for part in self.source[1:])]
        box = (slice(start, stop), *self.box[1:])
        return resampled(planes, corner, box, self.grid.network_size, self.grid.turned_size, self.mode)
