"""Overlapping windows, blended: images of any size for networks that pad."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_tensor, ensure_tuple, ensure_tuple_rep
from tqdm import tqdm

from pipeline.errors import InputError
from pipeline.inferers.equal_windows import LEFT_OUT, background_like, is_random, kinds_of_windows
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

    The network does not see a constant window twice, such as what was padded: its output is that of an earlier window
    of the same values. It must be a function of each window for itself, and one in training mode is not taken as such.

    Args:
        args, kwargs: those of `monai.inferers.SlidingWindowInferer`. Those of the padding and of buffers do nothing.
        skip_below: the network does not see windows of which no channel is anywhere above this value, in units of the
            image as it is given, such as -1000 for air in Hounsfield units. They count as background in the mean with
            their neighbours: logit 10 for class 0 and 0 for the others, or -10 of a single channel. This changes the
            result, where the network sees anything in there. None: all windows count as the network says.

    Attributes:
        windows: how many have been put together, of all images so far.
        forwards: of how many of them the network has seen.
    """

    def __init__(self, *args: Any, skip_below: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_below = skip_below
        self.windows = self.forwards = 0
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
        return self._rolled(image, network, args, kwargs, mirrored, device)

    def sums(
        self, image: torch.Tensor, network: Callable[..., Any], *args: Any, mirrored: Sequence[int] = (), **kwargs: Any
    ) -> Iterator[Slab]:
        """Yield what `slabs` does, times a number above 0 of each voxel's own: enough to compare classes.

        This saves the division by the weights, and a copy: a slab is only valid until the next is asked for.
        """
        return self._rolled(image, network, args, kwargs, mirrored, means=False)

    def _rolled(
        self,
        image: torch.Tensor,
        network: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        mirrored: Sequence[int],
        device: torch.device | str | None = None,
        means: bool = True,
    ) -> Iterator[Slab]:
        images, axes = convert_to_tensor(image), tuple(mirrored)
        size = images.shape[2:]
        window, starts = self.layout(size, axes)
        weight = self.weight(images, window, axes)
        dtype = torch.promote_types(images.dtype, torch.float32)
        sums = RollingSum((len(images), *size), starts, weight, dtype, device or self._device(images))
        # Rows of windows along the first axis come one after the other, each with all images.
        places = list(product(starts[0], range(len(images)), *starts[1:]))
        kinds = self._kinds(images, network, starts, window)
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("buffer_")}

        def predict(batch: Sequence[int]) -> torch.Tensor:
            cuts = [_cut(*places[number], window=window) for number in batch]
            windows = torch.cat([images[cut] for cut in cuts]).to(self.sw_device or images.device)
            return mirror(_checked(network(mirror(windows, axes), *args, **kwargs), window), axes)

        outputs = self._outputs(kinds, predict, sums.to_host)
        done = 0
        for number in tqdm(range(len(places)), disable=not self.progress):
            first, item, *rest = places[number]
            sums.add(item, (first, *rest), next(outputs))
            final = places[number + 1][0] if number + 1 < len(places) else size[0]
            yield from sums.take(done, final, means)
            done = final

    def planes_held(self, image: torch.Tensor, network: Any) -> int:
        """Return how many planes of an image's prediction, (B, channels, *spatial), `slabs` sums up at once."""
        return self._window(image.shape[2:])[0]

    def layout(self, size: Sequence[int], mirrored: Sequence[int] = ()) -> tuple[Size, list[list[int]]]:
        """Return the voxels of a window, and where windows start along each axis, of an image of this size.

        Args:
            size: (*spatial).
            mirrored: axes of the batch, from 2 on, along which the network sees the image mirrored.
        """
        return self._window(size), self._starts(size, tuple(mirrored))

    def weight(self, image: torch.Tensor, window: Size, mirrored: Sequence[int] = ()) -> torch.Tensor:
        """Return the weight (*window) of a window's voxels, on the device that predicts an image."""
        return mirror(self._weight(window, image), [axis - 2 for axis in mirrored])

    def _outputs(
        self, kinds: Sequence[Hashable], predict: Callable[[Sequence[int]], torch.Tensor], make_room: Callable[[], bool]
    ) -> Iterator[torch.Tensor]:
        """Yield the output (K, *roi) of each window, in their order; the network sees the first of each kind only."""
        firsts: dict[Hashable, int] = {}
        seen = [
            number for number, kind in enumerate(kinds) if kind is None or firsts.setdefault(kind, number) == number
        ]
        self.windows, self.forwards = self.windows + len(kinds), self.forwards + len(seen)
        known: dict[Hashable, torch.Tensor] = {}
        for batch, outputs in self.fitting.predictions(seen, self.sw_batch_size, predict, make_room):
            for number, output in zip(batch, outputs, strict=True):
                if (kind := kinds[number]) is not None:
                    output = known[kind] = background_like(output) if kind == LEFT_OUT else output.clone()
                yield output
                following = number + 1
                while following < len(kinds) and kinds[following] in known:
                    yield known[kinds[following]]
                    following += 1
            del output, outputs

    def _kinds(
        self, images: torch.Tensor, network: Callable[..., Any], starts: Sequence[Sequence[int]], window: Size
    ) -> list[Hashable]:
        kinds = kinds_of_windows(images, starts, window, self.skip_below)
        seen_each = is_random(network)
        return [kind if kind == LEFT_OUT or not seen_each else None for kind in kinds]

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


def _cut(first: int, item: int, *rest: int, window: Size) -> tuple[slice, ...]:
    inside = (slice(start, start + n) for start, n in zip((first, *rest), window, strict=True))
    return (slice(item, item + 1), slice(None), *inside)


def _checked(output: Any, window: Size) -> torch.Tensor:
    if isinstance(output, torch.Tensor) and tuple(output.shape[2:]) == window:
        return output
    given = f"voxels {tuple(output.shape[2:])}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    raise OtherOutputError(f"the network gives {given} for a window of {window}, not one tensor of that size")
