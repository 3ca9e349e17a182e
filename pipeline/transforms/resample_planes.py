"""Resampling of a volume that comes plane by plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

PIECE = 2**22  # values of what is given at once, 16 MiB in float32
IN_CACHE = 2**19  # values that are mixed at once, 2 MiB
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
        self.held = torch.empty(0)  # the planes (K, n, Y', Z') that the next ones lie between, and
        self.numbers = torch.empty(0, dtype=torch.long)  # which they are

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
        next_below = int(self.below[ready]) if ready < len(self.below) else self.known
        self._hold(torch.arange(next_below, max(self.known, next_below)), planes, first)

    def _between(self, start: int, stop: int, planes: torch.Tensor, first: int) -> torch.Tensor:
        made = planes.new_empty((len(planes), stop - start, *self.new_size[1:]))
        step = max(IN_CACHE // made[:, :1].numel(), 1)
        for begin in range(start, stop, step):
            places = slice(begin, min(begin + step, stop))
            both = torch.stack([self.below[places], self.above[places]])
            self._hold(both.unique(), planes, first)
            below, above = torch.searchsorted(self.numbers, both)
            made[:, begin - start : places.stop - start] = _mixed(self.held, 1, below, above, self.part[places])
        return made

    def _hold(self, numbers: torch.Tensor, planes: torch.Tensor, first: int) -> None:
        """Hold the planes of these numbers alone, in ascending order: some are held, the others have come now."""
        old = torch.isin(self.numbers, numbers)
        new = numbers[~torch.isin(numbers, self.numbers)]
        parts = [self.held[:, old]] if old.any() else []
        if len(new):
            # `index_select` takes fifty times as long where the channels of a voxel lie side by side.
            come = planes[:, int(new[0]) - first : int(new[-1]) - first + 1].contiguous()
            parts.append(self._across(come.index_select(1, (new - new[0]).to(planes.device))))
        self.held, self.numbers = torch.cat(parts, dim=1) if parts else planes[:, :0], numbers

    def _across(self, planes: torch.Tensor) -> torch.Tensor:
        """Planes (K, n, Y, Z) to (K, n, Y', Z')."""
        mode, corners = ("linear", False) if self.is_linear else ("nearest-exact", None)
        if planes.shape[3] != self.new_size[2]:
            values = planes if planes.is_floating_point() else planes.double()
            values = functional.interpolate(
                values.flatten(1, 2), size=self.new_size[2], mode=mode, align_corners=corners
            )
            planes = values.to(planes.dtype).unflatten(1, planes.shape[1:3])
        return planes if planes.shape[2] == self.new_size[1] else _mixed(planes, 2, *self.rows)


def source_of(start: int, stop: int, old: int, new: int, mode: str = "linear") -> tuple[int, int]:
    """Return the old voxels of an axis, from one to before another, that the new ones in a range are made of."""
    below, above, _ = _neighbours(old, new, mode == "linear")
    return int(below[start]), int(above[stop - 1]) + 1


def resample_axis(
    values: torch.Tensor, axis: int, first: int, span: tuple[int, int], old: int, new: int, mode: str = "linear"
) -> torch.Tensor:
    """Return the new voxels in a range of one axis, as `PlaneResampler` makes them of the whole.

    Args:
        values: (K, *spatial), floating point where the mode is "linear".
        axis: of the tensor.
        first: which old voxel the tensor begins with along it.
        span: the new voxels, from one to before another, of which the tensor holds all that `source_of` says.
        old: voxels of the whole axis,
        new: and after resampling.
        mode: "linear" or "nearest".
    """
    if old == new:
        return values.narrow(axis, span[0] - first, span[1] - span[0])
    below, above, part = (numbers[span[0] : span[1]] for numbers in _neighbours(old, new, mode == "linear"))
    return _mixed(values, axis, below - first, above - first, part)


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


def _mixed(
    values: torch.Tensor, axis: int, below: torch.Tensor, above: torch.Tensor, part: torch.Tensor
) -> torch.Tensor:
    """Return new values along an axis: those at `below` and at `above`, of which the latter have a `part`."""
    lower = values.index_select(axis, below.to(values.device))
    if not part.any():
        return lower
    part = part.to(values).reshape(-1, *[1] * (values.ndim - 1 - axis))
    # A product and a sum, each rounded by itself: nothing depends on where in memory a voxel lies.
    return lower.mul_(1 - part).add_(values.index_select(axis, above.to(values.device)).mul_(part))
