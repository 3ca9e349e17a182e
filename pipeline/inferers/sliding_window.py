"""Overlapping windows, blended: images of any size for networks that pad."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_tensor, ensure_tuple, ensure_tuple_rep
from tqdm import tqdm

from pipeline.errors import InputError
from pipeline.inferers.fitting import HOST, Fitting
from pipeline.inferers.rolling_sum import RollingSum
from pipeline.inferers.slabs import Slab, joined, mirror

Size = tuple[int, ...]


class OtherOutputError(InputError):
    """A network gives something else than one tensor of its window's size."""


class SlidingWindow(SlidingWindowInferer):
    """Predict an image of any size in overlapping windows: the result of MONAI's SlidingWindowInferer, in less memory.

    Images (B, channels, *spatial) -> (B, classes, *spatial), the weighted mean of all windows that see a voxel. Only
    the planes that a later window will touch are summed up at once. Where memory is short, fewer windows are predicted
    at once, then their sums are held on the host. A window shrinks to an image that is smaller; MONAI pads such an
    image, with made-up values, but `pipeline.networks.unet.UNet` takes any size.

    Args:
        args, kwargs: those of `monai.inferers.SlidingWindowInferer`. Those of the padding and of buffers do nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not all(0 <= overlap < 1 for overlap in ensure_tuple(self.overlap)):
            raise InputError(f"overlap is {self.overlap}", remedy="give a part of the window, from 0 to below 1")
        self.fitting = Fitting()

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Return the network's output (B, C, *spatial) for images (B, channels, *spatial).

        A network of several outputs, or of another size, is left to MONAI, as are coordinates and conditions.
        """
        if not self.with_coord and kwargs.get("condition") is None:
            try:
                return joined(self.slabs(inputs, network, *args, **kwargs), inputs)[0]
            except OtherOutputError:
                pass
        fitted = copy.copy(self)
        fitted.roi_size = self._window(inputs.shape[2:])
        return super(SlidingWindow, fitted).__call__(inputs, network, *args, **kwargs)

    def slabs(
        self,
        image: torch.Tensor,
        network: Callable[..., Any],
        *args: Any,
        mirrored: Sequence[int] = (),
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> Iterator[Slab]:
        """Yield what calling returns in slabs, as soon as their last window is predicted.

        Args:
            image: (B, channels, *spatial).
            network: from windows (N, channels, *roi) to (N, K, *roi).
            *args: go to the network.
            **kwargs: likewise.
            mirrored: axes of the batch, from 2 on, along which the network sees the image mirrored; the result is
                mirrored back.
            device: where sums are held and slabs are; None: the inferer's own, or the image's.
        """
        images = convert_to_tensor(image)
        size, axes = images.shape[2:], tuple(mirrored)
        window, starts = self._window(size), self._starts(size, axes)
        weight = mirror(self._weight(window, images), [axis - 2 for axis in axes])
        # Rows of windows along the first axis come one after the other, each with all images.
        places = list(product(starts[0], range(len(images)), *starts[1:]))
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("buffer_")}

        def predict(batch: Sequence[Size]) -> torch.Tensor:
            cuts = [(slice(item, item + 1), slice(None), *_cut((first, *rest), window)) for first, item, *rest in batch]
            windows = torch.cat([images[cut] for cut in cuts]).to(self.sw_device or images.device)
            return mirror(_checked(network(mirror(windows, axes), *args, **kwargs), window), axes)

        dtype = torch.promote_types(images.dtype, torch.float32)
        sums = RollingSum(
            (len(images), *size), self.planes_held(images, network), dtype, device or self._device(images)
        )
        group = len(places) // len(starts[0]) if self._rows_crossed(images, starts) == 0 else len(places)
        count = done = 0
        with tqdm(total=len(places), disable=not self.progress) as bar:
            for begin in range(0, len(places), group):
                together = places[begin : begin + group]
                for batch, outputs in self.fitting.predictions(together, self.sw_batch_size, predict, sums.to_host):
                    for (first, item, *rest), output in zip(batch, outputs, strict=True):
                        sums.add(item, (first, *rest), output, weight)
                    del outputs
                    bar.update(len(batch))
                    count += len(batch)
                    final = places[count][0] if count < len(places) else size[0]
                    yield from sums.take(done, final)
                    done = final

    def planes_held(self, image: torch.Tensor, network: Any) -> int:
        """Return how many planes of an image's prediction, (B, channels, *spatial), `slabs` sums up at once."""
        size = tuple(image.shape[2:])
        starts = self._starts(size)
        rows, crossed = starts[0], self._rows_crossed(image, starts)
        later = [*rows[crossed:], *[rows[-1]] * crossed]
        return max(last - first for first, last in zip(rows, later, strict=False)) + self._window(size)[0]

    def _rows_crossed(self, images: torch.Tensor, starts: Sequence[Sequence[int]]) -> int:
        """How many rows further on than its first window a batch may end: none, where rows fill many batches."""
        in_row = len(images) * prod(map(len, starts[1:]))
        return 0 if in_row >= 4 * self.sw_batch_size else -(-(self.sw_batch_size - 1) // in_row)

    def _window(self, size: Sequence[int]) -> Size:
        asked = ensure_tuple_rep(self.roi_size, len(size))
        return tuple(min(n, most) if n and n > 0 else most for n, most in zip(asked, size, strict=True))

    def _starts(self, size: Sequence[int], mirrored: Sequence[int] = ()) -> list[list[int]]:
        """Where windows start along each axis: at multiples of the step, and the last one ends with the image."""
        found = []
        overlaps = ensure_tuple_rep(self.overlap, len(size))
        for axis, (n, window, overlap) in enumerate(zip(size, self._window(size), overlaps, strict=True), 2):
            starts = [*range(0, n - window, max(int(window * (1 - overlap)), 1)), n - window]
            found.append([n - window - start for start in reversed(starts)] if axis in mirrored else starts)
        return found

    def _weight(self, window: Size, images: torch.Tensor) -> torch.Tensor:
        if self.roi_weight_map is not None and tuple(self.roi_weight_map.shape) == window:
            return self.roi_weight_map
        device = self.sw_device or images.device
        return compute_importance_map(window, mode=self.mode, sigma_scale=self.sigma_scale, device=device)

    def _device(self, images: torch.Tensor) -> torch.device | str:
        is_large = self.cpu_thresh is not None and images[0, 0].numel() > self.cpu_thresh
        return self.device or (HOST if is_large else images.device)


def _cut(corner: Sequence[int], window: Size) -> tuple[slice, ...]:
    return tuple(slice(start, start + n) for start, n in zip(corner, window, strict=True))


def _checked(output: Any, window: Size) -> torch.Tensor:
    if isinstance(output, torch.Tensor) and tuple(output.shape[2:]) == window:
        return output
    given = f"voxels {tuple(output.shape[2:])}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    raise OtherOutputError(f"the network gives {given} for a window of {window}, not one tensor of that size")
