"""The weighted mean of overlapping windows, of which only the planes that are not final yet are held."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import torch

from pipeline.inferers.fitting import HOST, Shortage, allocate, attempt, does_not_fit
from pipeline.inferers.slabs import Slab, planes_in_piece

CONVERTED = 2**19  # values of a window that are made float32 at once, 2 MiB: they stay in the processor's cache
SPREAD = 2**24  # weights, one for each channel of a voxel, that are held for a faster sum: 64 MiB in float32
logger = logging.getLogger(__name__)


class RollingSum:
    """Sums of windows times their weights, in a ring of as many planes along the first spatial axis as a window has.

    Plane p stands at p modulo the ring's height, so that nothing is moved when the first planes are done: their place
    is that of the planes that come next. The channels of a voxel are neighbours in memory where they are so in the
    windows: turning either round would cost more than adding them.

    Args:
        size: (B, *spatial) of the images.
        starts: where windows start along each spatial axis; each combination is one window.
        weight: (*roi), that of a window's voxels, above 0.
        dtype: of the sums.
        device: of the sums; where memory is short there, they move to the host.
    """

    def __init__(
        self,
        size: Sequence[int],
        starts: Sequence[Sequence[int]],
        weight: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.images, _, *self.plane = size
        self.starts, self.weight, self.dtype, self.device = starts, weight, dtype, torch.device(device)
        self.height = len(weight)
        self.sums = self.spread = self.row = torch.empty(0)

    def add(self, image: int, corner: Sequence[int], window: torch.Tensor) -> None:
        """Add a window (K, *roi), whose first voxel stands at `corner`; all planes before it have been taken."""
        if not self.sums.numel():
            self._allocate(window)
        across = tuple(slice(start, start + n) for start, n in zip(corner[1:], window.shape[2:], strict=True))
        for held, own in self._places(corner[0], self.height):
            place = (image, held, *across)
            while isinstance(reason := attempt(partial(self._add, place, window[:, own], own)), Shortage):
                self._make_room(reason)

    def take(self, start: int, stop: int, means: bool = True) -> Iterator[Slab]:
        """Yield planes that no window will touch any more, in slabs of at most `PIECE` values.

        Args:
            start: the first plane that has not been taken.
            stop: the one after the last.
            means: divide by the sums of the weights; else the sums themselves come, which are only valid until the
                next slab is asked for.
        """
        planes = planes_in_piece(self.sums)
        for first in range(start, stop, planes):
            for held, own in self._places(first, min(planes, stop - first)):
                begin, end = first + own.start, first + own.stop
                if means:
                    while isinstance(divided := attempt(partial(self._means, held, begin, end)), Shortage):
                        self._make_room(divided)
                    yield Slab(begin, end, divided)
                    del divided
                else:
                    yield Slab(begin, end, self.sums[:, :, held])
                self.sums[:, :, held] = 0

    def to_host(self) -> bool:
        """Move the sums to the host; False where they are there already."""
        if self.device == HOST:
            return False
        shape = (self.images, "K", self.height, *self.plane)
        logger.warning("%s is short of memory: sums of windows, %s, are held on the host", self.device, shape)
        self.sums, self.spread, self.row, self.device = self.sums.to(HOST), torch.empty(0), self.row.to(HOST), HOST
        return True

    def _allocate(self, window: torch.Tensor) -> None:
        classes, inside = len(window), (self.height, *self.plane)
        if classes > 1 and window.stride(0) == 1:
            self.sums = allocate((self.images, *inside, classes), self.dtype, self.device, zeros=True).movedim(-1, 1)
        else:
            self.sums = allocate((self.images, classes, *inside), self.dtype, self.device, zeros=True)
        if self.sums.device.type != self.device.type:
            self.device = HOST

    def _add(self, place: tuple, window: torch.Tensor, own: slice) -> None:
        image, held, *across = place
        if not self.spread.numel():
            self.spread = self._spread(len(window))
        sums, weight = self.sums[image, :, held, *across], self.spread[:, own]
        if self.device != HOST or window.dtype == self.dtype:
            sums.addcmul_(window.to(sums), weight)
            return
        step = max(CONVERTED // window[:, :1].numel(), 1)
        converted = torch.empty_like(window[:, :step], dtype=self.dtype, device=HOST)  # made once: new memory is slow
        for first in range(0, window.shape[1], step):
            part = window[:, first : first + step]
            wide = converted[:, : part.shape[1]].copy_(part)
            sums[:, first : first + step].addcmul_(wide, weight[:, first : first + step])

    def _spread(self, classes: int) -> torch.Tensor:
        """The weight (1, *roi); beside neighbouring channels rather (K, *roi), one for each, if that is not large."""
        weight = self.weight.to(self.sums)
        if self.sums.stride(1) > 1 or classes * weight.numel() > SPREAD:
            return weight[None]
        return weight[..., None].repeat(*[1] * weight.ndim, classes).movedim(-1, 0)

    def _means(self, held: slice, start: int, stop: int) -> torch.Tensor:
        return self.sums[:, :, held] / self._weights(start, stop)

    def _weights(self, start: int, stop: int) -> torch.Tensor:
        """The sums of all windows' weights: each row of windows adds the same pattern (height, *plane)."""
        if not self.row.numel():
            row, weight = self.sums.new_zeros(self.height, *self.plane), self.weight.to(self.sums)
            for corner in product(*self.starts[1:]):
                row[:, *(slice(at, at + n) for at, n in zip(corner, weight.shape[1:], strict=True))] += weight
            self.row = row
        weights = self.row.new_zeros(stop - start, *self.plane)
        for begin in self.starts[0]:
            low, high = max(start, begin), min(stop, begin + self.height)
            if low < high:
                weights[low - start : high - start] += self.row[low - begin : high - begin]
        return weights

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
