"""Resampling of a volume that comes plane by plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

PIECE = 2**22  # values of what is given at once, 16 MiB in float32
Planes = tuple[int, int, torch.Tensor]


class PlaneResampler:
    """Resample volumes (K, X, Y, Z) to another number of voxels in the same field of view, planes along X by planes.

    The result is that of `torch.nn.functional.interpolate` with half-pixel centres ("trilinear", "nearest-exact").
    Each voxel is computed in the same way however the planes are dealt out, so that pieces equal the whole bit by bit.

    Args:
        old_size: (X, Y, Z) of what comes.
        new_size: (X', Y', Z') of what is given.
        mode: "linear", or "nearest": values are copied, and keep their type.
    """

    def __init__(self, old_size: Sequence[int], new_size: Sequence[int], mode: str = "linear") -> None:
        self.old_size, self.new_size, self.is_linear = tuple(old_size), tuple(new_size), mode == "linear"
        old, new = self.old_size[0], self.new_size[0]
        centre = torch.arange(new)
        if self.is_linear and old != new:
            place = ((centre + 0.5).double() * (old / new) - 0.5).clamp_min(0)
            self.below = place.long()
            part = torch.where(self.below < old - 1, place - self.below, 0)
            self.above = self.below + (part > 0)  # beyond the outermost centres, the outermost planes go on
            self.part = part[:, None, None]
        else:
            self.below = self.above = (2 * centre + 1) * old // (2 * new)  # half-pixel centres, in whole numbers
            self.part = torch.zeros(new, 1, 1, dtype=torch.double)
        self.done, self.known, self.held = 0, 0, torch.empty(0)

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Return a whole volume (K, X, Y, Z) resampled."""
        if tuple(volume.shape[1:]) == self.new_size:
            return volume
        pieces = list(
            PlaneResampler(self.old_size, self.new_size, "linear" if self.is_linear else "nearest").push(volume)
        )
        return pieces[0][2] if len(pieces) == 1 else torch.cat([piece for _, _, piece in pieces], dim=1)

    def push(self, planes: torch.Tensor) -> Iterator[Planes]:
        """Take the next planes (K, n, Y, Z), and yield (start, stop, planes) of all that is certain now."""
        if self.old_size == self.new_size:
            start, self.done = self.done, self.done + planes.shape[1]
            yield start, self.done, planes
            return
        self.held = torch.cat([self.held.to(planes.device), planes], dim=1) if self.held.numel() else planes
        self.known += planes.shape[1]
        ready = int(torch.searchsorted(self.above, self.known))  # `above` never falls
        step = max(PIECE // (len(planes) * self.new_size[1] * self.new_size[2]), 1)
        for start in range(self.done, ready, step):
            stop = min(start + step, ready)
            yield start, stop, self._between(start, stop)
        self.done = ready
        first = int(self.below[ready]) if ready < len(self.below) else self.known
        self.held = self.held[:, max(first - self._first, 0) :].clone()  # not a view, that would keep all planes

    @property
    def _first(self) -> int:
        return self.known - self.held.shape[1]

    def _between(self, start: int, stop: int) -> torch.Tensor:
        below, above = self.below[start:stop], self.above[start:stop]
        needed, place = torch.unique(torch.cat([below, above]), return_inverse=True)
        planes = self._across(self.held[:, (needed - self._first).to(self.held.device)])
        lower, upper = place.to(planes.device).split(len(below))
        if torch.equal(below, above):
            return planes if torch.equal(needed, below) else planes[:, lower]
        # A product and a sum, each rounded by itself: nothing depends on where in memory a voxel lies.
        part = self.part[start:stop].to(planes)
        return planes[:, lower].mul_(1 - part).add_(planes[:, upper].mul_(part))

    def _across(self, planes: torch.Tensor) -> torch.Tensor:
        """Planes (K, n, Y, Z) to (K, n, Y', Z')."""
        size = self.new_size[1:]
        if tuple(planes.shape[2:]) == size:
            return planes if planes.is_floating_point() or not self.is_linear else planes.double()
        values = planes if planes.is_floating_point() else planes.double()
        mode, corners = ("bilinear", False) if self.is_linear else ("nearest-exact", None)
        resized = values.new_empty(*values.shape[:2], *size)
        for number in range(values.shape[1]):
            # One by one: how several at once are computed depends, in the last bit, on how many they are.
            plane = values[:, number, None].contiguous()
            resized[:, number] = functional.interpolate(plane, size=size, mode=mode, align_corners=corners)[:, 0]
        return resized if self.is_linear else resized.to(planes.dtype)
