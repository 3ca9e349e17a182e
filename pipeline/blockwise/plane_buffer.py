"""The planes of an image that a network is looking at, as it goes through a volume."""

from __future__ import annotations

import torch

from pipeline.blockwise.network_image import NetworkImage
from pipeline.volumes.region_reader import Box

BRICK = 64  # planes that are read at once, where the file's chunks are not lower


class PlaneBuffer:
    """A window along the first axis of a box of an image, which moves on as later planes are asked for.

    Args:
        image: the whole image.
        box: what is held of it: all of the other axes, and the planes that may be asked for.
        height: planes that are asked for at once, or lie between those that several readers ask for.
    """

    def __init__(self, image: NetworkImage, box: Box, height: int) -> None:
        self.image, self.across = image, box[1:]
        self.first = self.stop = box[0].start
        self.borders = image.borders(0, brick_height(image), box[0])[1:]
        capacity = min(height + brick_height(image), box[0].stop - box[0].start)
        edges = (part.stop - part.start for part in self.across)
        self.values = torch.empty((image.channels, capacity, *edges))

    def planes(self, start: int, stop: int) -> torch.Tensor:
        """Return planes (C, stop - start, ...), a view that holds until later ones are asked for."""
        if start < self.first:
            raise ValueError(f"plane {start} is asked for, and those before {self.first} are gone")
        while self.stop < stop:
            self._read_on(keep_from=start)
        return self.values[:, start - self.first : stop - self.first]

    def _read_on(self, keep_from: int) -> None:
        end = next(border for border in self.borders if border > self.stop)
        if (excess := end - self.first - self.values.shape[1]) > 0:
            self._forget(min(excess, self.stop - self.first))
        if self.first > keep_from:
            raise ValueError(f"planes from {keep_from} to {end} are more than the {self.values.shape[1]} that are held")
        for tile in self.image.tiles((slice(self.stop, end), *self.across)):
            rows, *columns = tile
            corner = [part.start for part in self.across]
            inside = [slice(own.start - at, own.stop - at) for own, at in zip(columns, corner, strict=True)]
            self.values[:, rows.start - self.first : rows.stop - self.first, *inside] = self.image.read(tile)
        self.stop = end

    def _forget(self, count: int) -> None:
        """Drop the first planes, and move the others to their place, a few at a time: no copy of all is made."""
        held = self.stop - self.first
        for start in range(count, held, count):
            stop = min(start + count, held)
            self.values[:, start - count : stop - count] = self.values[:, start:stop]
        self.first += count


def brick_height(image: NetworkImage) -> int:
    """Return how many planes of an image are read at once: whole chunks, where these are not too high."""
    return min(image.chunk[0] * max(BRICK // image.chunk[0], 1), 2 * BRICK, image.size[0])
