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
        self.below, self.above, self.part = _neighbours(self.old_size[0], self.new_size[0], self.is_linear)
        self.rows = _neighbours(self.old_size[1], self.new_size[1], self.is_linear)
        self.done = self.known = 0
        self.held: dict[int, torch.Tensor] = {}  # by number, those planes (K, Y', Z') that the next ones lie between

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
        if self.is_linear and not planes.is_floating_point():
            planes = planes.double()
        first, self.known = self.known, self.known + planes.shape[1]
        ready = int(torch.searchsorted(self.above, self.known))  # `above` never falls
        step = max(PIECE // (len(planes) * self.new_size[1] * self.new_size[2]), 1)
        for start in range(self.done, ready, step):
            stop = min(start + step, ready)
            yield start, stop, self._between(start, stop, planes, first)
        self.done = ready
        needed = range(int(self.below[ready]) if ready < len(self.below) else self.known, self.known)
        self.held = {number: self._plane(number, planes, first) for number in needed}

    def _between(self, start: int, stop: int, planes: torch.Tensor, first: int) -> torch.Tensor:
        made = planes.new_empty((len(planes), stop - start, *self.new_size[1:]))
        for place in range(start, stop):  # one by one: a plane stays in the processor's cache
            below, above, part = int(self.below[place]), int(self.above[place]), float(self.part[place])
            self.held = {number: plane for number, plane in self.held.items() if number >= below}
            for number in {below, above}:
                self.held[number] = self._plane(number, planes, first)
            _mix(self.held[below], self.held[above], 1 - part, part, made[:, place - start])
        return made

    def _plane(self, number: int, planes: torch.Tensor, first: int) -> torch.Tensor:
        """Plane (K, Y', Z') `number` of all: one that is held, or one of those that have come, resampled."""
        return self.held[number] if number in self.held else self._across(planes[:, number - first].contiguous())

    def _across(self, plane: torch.Tensor) -> torch.Tensor:
        """A plane (K, Y, Z) to (K, Y', Z'), a new one."""
        mode, corners = ("linear", False) if self.is_linear else ("nearest-exact", None)
        if plane.shape[2] != self.new_size[2]:
            values = plane if plane.is_floating_point() else plane.double()
            values = functional.interpolate(values, size=self.new_size[2], mode=mode, align_corners=corners)
            plane = values.to(plane.dtype)
        if plane.shape[1] == self.new_size[1]:
            return plane.clone()
        below, above, part = (entry.to(plane.device) for entry in self.rows)
        lower = plane.index_select(1, below)
        if not self.is_linear:
            return lower
        part = part.to(plane)[:, None]
        return _mix(lower, plane.index_select(1, above), 1 - part, part, lower)


def _neighbours(old: int, new: int, is_linear: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, of each new voxel of an axis, the old ones below and above its centre, and the part of the one above."""
    centre = torch.arange(new)
    if not is_linear or old == new:
        below = (2 * centre + 1) * old // (2 * new)  # half-pixel centres, in whole numbers
        return below, below, torch.zeros(new, dtype=torch.double)
    place = ((centre + 0.5).double() * (old / new) - 0.5).clamp_min(0)
    below = place.long()
    part = torch.where(below < old - 1, place - below, 0)
    return below, below + (part > 0), part  # beyond the outermost centres, the outermost go on


def _mix(
    lower: torch.Tensor, upper: torch.Tensor, less: torch.Tensor | float, part: torch.Tensor | float, out: torch.Tensor
) -> torch.Tensor:
    """Write lower * less + upper * part to `out`, and return it."""
    if isinstance(part, float) and part == 0:
        return out.copy_(lower)
    # A product and a sum, each rounded by itself: nothing depends on where in memory a voxel lies.
    return torch.mul(lower, less, out=out).add_(upper * part)
