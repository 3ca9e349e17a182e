"""How a volume is cut into blocks: pillars across, that are predicted from one end to the other, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

from pipeline.batch.memory import FLOAT, free_bytes
from pipeline.blockwise.file_grid import FileGrid, grown
from pipeline.errors import InputError
from pipeline.volumes.region_reader import Box

MOST = 5 * 2**29  # bytes of one process's arrays: 2.5 GiB, so that it stays below 4 with its programs and the network
BLOCK = 2**26  # voxels of a block, where chunks are not larger
PIECES = 2**27  # bytes of what is read, resampled and classified at once


class Run(NamedTuple):
    """Consecutive blocks of one pillar: what a process predicts in one go.

    Attributes:
        pillar: its number.
        first: the first block, counted along the pillar,
        stop: and the one after the last.
    """

    pillar: int
    first: int
    stop: int


@dataclass(frozen=True)
class BlockPlan:
    """Where a volume is cut; the voxels are the file's along the network's axes.

    Attributes:
        borders: along each axis, from 0 to its size: of blocks along the first, of pillars along the others.
        bytes: the estimate of what a process holds for one pillar.
    """

    borders: tuple[tuple[int, ...], ...]
    bytes: int = 0

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(axis[-1] for axis in self.borders)

    @property
    def pillars(self) -> int:
        """How many pillars there are."""
        return math.prod(len(axis) - 1 for axis in self.borders[1:])

    @property
    def blocks_in_pillar(self) -> int:
        """How many blocks a pillar has."""
        return len(self.borders[0]) - 1

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.pillars * self.blocks_in_pillar

    def runs(self, blocks: int | None = None) -> list[Run]:
        """Return runs of at most so many blocks that make up the volume; None: a pillar is a run.

        Each run predicts windows anew that touch the one before it: about as many planes as a window has.
        """
        step, end = blocks or self.blocks_in_pillar, self.blocks_in_pillar
        starts = range(0, end, step)
        return [Run(pillar, start, min(start + step, end)) for pillar in range(self.pillars) for start in starts]

    def box(self, pillar: int, first: int, stop: int | None = None) -> Box:
        """Return the box of a block, or of those from one to before another."""
        stop = first + 1 if stop is None else stop
        columns = []
        for axis in reversed(self.borders[1:]):
            pillar, number = divmod(pillar, len(axis) - 1)
            columns.append(slice(axis[number], axis[number + 1]))
        return (slice(self.borders[0][first], self.borders[0][stop]), *reversed(columns))

    def windows(self, starts: Sequence[Sequence[int]], window: Sequence[int]) -> int:
        """Return how many windows are predicted, some twice, where a pillar is a run.

        Args:
            starts: where windows begin along each axis, in voxels of this plan.
            window: their edges.
        """
        across = [
            sum(start < stop and start + n > begin for begin, stop in pairwise(axis) for start in begins)
            for axis, begins, n in zip(self.borders[1:], starts[1:], window[1:], strict=True)
        ]
        return len(starts[0]) * math.prod(across)


@dataclass(frozen=True)
class Needs:
    """What decides on the memory that a pillar takes.

    Attributes:
        window: edges of a window on the network's grid.
        channels: of the image.
        classes: channels of the network's output.
        versions: of the image that are predicted side by side.
        batch: windows that the network sees at once.
        brick: planes that are read at once.
    """

    window: tuple[int, ...]
    channels: int = 1
    classes: int = 2
    versions: int = 1
    batch: int = 1
    brick: int = 64

    def bytes(self, grid: FileGrid, block: Sequence[int]) -> int:
        """Return an estimate of what is held for a pillar whose blocks have these edges, in turned voxels."""
        on_network = (
            math.ceil(n * m / of) for n, m, of in zip(block, grid.network_size, grid.turned_size, strict=True)
        )
        _, *across = (
            min(n + 2 * edge, most) for n, edge, most in zip(on_network, self.window, grid.network_size, strict=True)
        )
        height = self.window[0] * (1 + (self.versions > 1)) + self.brick
        image = min(height, grid.network_size[0]) * self.channels
        sums = self.window[0] * self.versions * (self.classes + 1)
        windows = self.batch * math.prod(self.window) * (self.channels + 2 * self.classes)
        return ((image + sums) * math.prod(across) + windows) * FLOAT + 3 * math.prod(block) + PIECES


def plan_blocks(
    grid: FileGrid,
    chunk: Sequence[int],
    needs: Needs,
    budget: int | None = None,
    block: Sequence[int] | None = None,
) -> BlockPlan:
    """Return the plan that predicts fewest voxels twice within a memory budget.

    Args:
        grid: of the file, and of the network.
        chunk: voxels that the label map stores together along each axis of the file: no two blocks share one.
        needs: of a pillar.
        budget: bytes that one process's arrays may take; None: half of the free memory, at most `MOST`.
        block: edges of a block along the network's axes, in the file's voxels, in place of the budget; each is rounded
            up to whole chunks.
    """
    size = grid.turned_size
    edges = tuple(min(edge, n) for edge, n in zip(grid.along_network(chunk), size, strict=True))
    if block is not None:
        if len(block) != len(size) or min(block) < 1:
            raise InputError(f"a block of {tuple(block)} voxels", remedy=f"give {len(size)} numbers from 1 on")
        chosen = tuple(min(-(-n // edge) * edge, most) for n, edge, most in zip(block, edges, size, strict=True))
        return _planned(grid, chosen, needs)
    limit = min(free_bytes() // 2, MOST) if budget is None else budget
    fitting = [(twice, plan) for twice, plan in _candidates(grid, edges, needs) if needs.bytes(grid, plan) <= limit]
    if not fitting:
        least = needs.bytes(grid, edges)
        reason = f"the sums of one row of windows {needs.window} over one column of chunks {edges} take "
        reason += f"{least / 2**20:.0f} MiB, and {limit / 2**20:.0f} may be taken"
        remedy = "give it more memory, or use smaller windows (roi_size) or chunks of the label map"
        raise InputError(reason, remedy=remedy)
    return _planned(grid, min(fitting)[1], needs)


def _candidates(grid: FileGrid, chunk: Sequence[int], needs: Needs) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield how many times each voxel is predicted on average, and the edges of blocks for which that is so."""
    size = grid.turned_size
    choices = [sorted(set(_even(n, edge))) for n, edge in zip(size[1:], chunk[1:], strict=True)]
    ratios = [of / m for of, m in zip(size, grid.network_size, strict=True)]
    for across in product(*choices):
        times = 1.0
        for edge, n, window, ratio in zip(across, size[1:], needs.window[1:], ratios[1:], strict=True):
            times *= 1 + (math.ceil(n / edge) - 1) * window * ratio / n
        height = grown(chunk, (size[0], *across), 0)[0]
        voxels = math.prod(across)
        height = min(max(BLOCK // voxels // chunk[0], 1) * chunk[0], size[0]) if voxels else height
        yield times, (height, *across)


def _even(size: int, chunk: int) -> Iterator[int]:
    """Edges of pillars, in whole chunks, that part an axis as evenly as these allow."""
    chunks = -(-size // chunk)
    for pieces in range(1, chunks + 1):
        yield min(-(-chunks // pieces) * chunk, size)


def _planned(grid: FileGrid, block: tuple[int, ...], needs: Needs) -> BlockPlan:
    borders = tuple(grid.borders(axis, edge) for axis, edge in enumerate(block))
    return BlockPlan(borders, needs.bytes(grid, block))
