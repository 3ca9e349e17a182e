"""The weighted mean of overlapping windows, of which only the planes that are not final yet are held."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from pipeline.inferers.fitting import HOST, Shortage, allocate, attempt, does_not_fit
from pipeline.inferers.slabs import Slab, planes_in_piece

logger = logging.getLogger(__name__)


class RollingSum:
    """Sums of windows times their weights, and of the weights, in a ring of planes along the first spatial axis.

    Plane p stands at p modulo `height`, so that nothing is moved when the first planes are done: their place is that
    of the planes that come next.

    Args:
        size: (B, *spatial) of the images.
        height: planes that are held at once; a window may only be added where it fits with all that is not yet taken.
        dtype: of the sums.
        device: of the sums; where memory is short there, they move to the host.
    """

    def __init__(self, size: Sequence[int], height: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.images, _, *self.plane = size
        self.height, self.dtype, self.device = height, dtype, torch.device(device)
        self.sums = self.weights = torch.empty(0)

    def add(self, image: int, corner: Sequence[int], window: torch.Tensor, weight: torch.Tensor) -> None:
        """Add a window (K, *roi), whose first voxel stands at `corner`, with a weight (*roi)."""
        if not self.sums.numel():
            self._allocate(len(window))
        across = tuple(slice(start, start + n) for start, n in zip(corner[1:], window.shape[2:], strict=True))
        for held, own in self._places(corner[0], window.shape[1]):
            place = (image, held, *across)
            while isinstance(reason := attempt(partial(self._add, place, window[:, own], weight[own])), Shortage):
                self._make_room(reason)

    def take(self, start: int, stop: int) -> Iterator[Slab]:
        """Yield the means of planes that no window will touch any more, in slabs of at most `PIECE` values."""
        planes = planes_in_piece(self.sums)
        for first in range(start, stop, planes):
            for held, own in self._places(first, min(planes, stop - first)):
                while isinstance(means := attempt(partial(self._means, held)), Shortage):
                    self._make_room(means)
                self.sums[:, :, held] = 0
                self.weights[held] = 0
                yield Slab(first + own.start, first + own.stop, means)
                del means

    def to_host(self) -> bool:
        """Move the sums to the host; False where they are there already."""
        if self.device == HOST:
            return False
        shape = (self.images, "K", self.height, *self.plane)
        logger.warning("%s is short of memory: sums of windows, %s, are held on the host", self.device, shape)
        self.sums, self.weights, self.device = self.sums.to(HOST), self.weights.to(HOST), HOST
        return True

    def _allocate(self, classes: int) -> None:
        self.sums = allocate((self.images, classes, self.height, *self.plane), self.dtype, self.device, zeros=True)
        if self.sums.device.type != self.device.type:
            self.device = HOST
        self.weights = allocate((self.height, *self.plane), self.dtype, self.device, zeros=True)

    def _add(self, place: tuple, window: torch.Tensor, weight: torch.Tensor) -> None:
        image, *inside = place
        window, weight = window.to(self.sums), weight.to(self.sums)  # what needs memory comes before what changes sums
        self.sums[image, :, *inside].addcmul_(window, weight)
        if image == 0:
            self.weights[*inside] += weight

    def _means(self, held: slice) -> torch.Tensor:
        return self.sums[:, :, held] / self.weights[held]

    def _make_room(self, reason: str) -> None:
        if not self.to_host():
            raise does_not_fit(reason)

    def _places(self, start: int, count: int) -> Iterator[tuple[slice, slice]]:
        """Where planes stand in the ring, and which of them: two parts where they run over its end."""
        done = 0
        while done < count:
            at = (start + done) % self.height
            n = min(count - done, self.height - at)
            yield slice(at, at + n), slice(done, done + n)
            done += n
