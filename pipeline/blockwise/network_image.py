"""An image as a network sees it, any box of which can be had: turned, resampled, and of normalised intensities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from pipeline.blockwise.file_grid import FileGrid, boxes_between, grown
from pipeline.errors import InputError
from pipeline.volumes.region_reader import Box, RegionReader

Step = Callable[[torch.Tensor], torch.Tensor]
TILE = 2**22  # voxels that are read and converted at once: 16 MiB, several times


class NetworkImage:
    """Read a volume as the preprocessing would give it.

    Args:
        reader: the volume.
        grid: its own, and the network's.
        steps: from intensities (C, *box) to others, in their order; they treat each voxel by itself, and may change
            what comes in place.
        case: id for error messages.
    """

    def __init__(
        self, reader: RegionReader, grid: FileGrid, steps: Sequence[Step] = (), case: str | None = None
    ) -> None:
        self.reader, self.grid, self.steps, self.case = reader, grid, list(steps), case
        self.size, self.channels = grid.network_size, int(reader.channels)
        chunk = zip(grid.along_network(reader.chunk), grid.turned_size, grid.network_size, strict=True)
        self.chunk = tuple(max(round(min(edge, n) * m / n), 1) for edge, n, m in chunk)

    def read(self, box: Box) -> torch.Tensor:
        """Return a box of the network's grid, (C, *box), float32; what is constant is expanded from one voxel."""
        source = self.grid.to_turned(box)
        raw = self.grid.turn(self.reader.read(self.grid.in_file(source)))
        shape = (len(raw), *(part.stop - part.start for part in box))
        first = raw[(slice(None), *[slice(1)] * len(box))]
        constant = bool((raw == first).all())
        values = torch.from_numpy(_float32(first if constant else raw, self.case))
        if not constant and not self.grid.keeps_size:
            values = self.grid.resampled(values, [part.start for part in source], box)
        for step in self.steps:
            values = step(values)
        return values.expand(shape)

    def tiles(self, box: Box | None = None) -> Iterator[Box]:
        """Yield boxes that make up a box, or all, cut where chunks of the file end; each is converted at once."""
        box = box or tuple(slice(0, n) for n in self.size)
        lengths = [part.stop - part.start for part in box]
        edges = grown(self.chunk, lengths, TILE)
        cuts = [self.borders(axis, edges[axis], part) for axis, part in enumerate(box)]
        yield from boxes_between(
            [
                cut if edge < length else [part.start, part.stop]
                for cut, edge, length, part in zip(cuts, edges, lengths, box, strict=True)
            ]
        )

    def borders(self, axis: int, step: int, part: slice | None = None) -> list[int]:
        """Return where an axis, or a part of it, is cut about every `step` voxels, at the ends of the file's chunks."""
        part = part or slice(0, self.size[axis])
        offset = self.size[axis] % step if self.grid.flipped[axis] else 0
        first = part.start + 1 + (offset - part.start - 1) % step
        return [part.start, *range(first, part.stop, step), part.stop]


def _float32(values: np.ndarray, case: str | None) -> np.ndarray:
    """Return a contiguous copy in float32, whose numbers are finite."""
    with np.errstate(over="ignore"):
        converted = np.array(values, np.float32, order="C")
    if values.dtype.kind == "f" and not np.isfinite(converted).all():
        reason = "holds NaN, infinity, or intensities beyond the range of float32"
        raise InputError(reason, case=case, remedy="replace them, or scale the image")
    return converted
