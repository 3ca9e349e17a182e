"""The overlap-tile strategy of the U-Net paper: images of any size for networks with valid convolutions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from pipeline.errors import InputError
from pipeline.inferers.fitting import HOST, Fitting, allocate
from pipeline.inferers.slabs import Slab, in_pieces, joined, mirror

Size = tuple[int, ...]
logger = logging.getLogger(__name__)

# Where a voxel beyond the border is taken from: (index, length of the axis) -> index within it.
PADDINGS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    # Up and down a zigzag, which ends nowhere: ... 2 1 | 0 1 2 | 1 0 1 2 ...
    "reflect": lambda index, length: length - 1 - (index % max(2 * (length - 1), 1) - (length - 1)).abs(),
    "replicate": lambda index, length: index.clamp(0, length - 1),
    "circular": lambda index, length: index % length,
}


class ValidNetwork(Protocol):
    """What a network tells of its sizes, as `pipeline.networks.unet.UNet` does; they are all per axis.

    Attributes:
        divisor: product of the strides.
        margin: voxels by which the output is smaller than the image, half of them at each end.
    """

    divisor: Size
    margin: Size

    def output_size(self, input_size: Sequence[int]) -> Size:
        """Voxels of the output."""

    def valid_input_size(self, at_least: int | Sequence[int]) -> Size:
        """Voxels of the smallest image that the network takes and whose output has at least so many."""


class OverlapTileInferer(Inferer):
    """Predict an image of any size in tiles, with a network of valid convolutions (`padding="valid"`), in 2D or 3D.

    Images (B, channels, *spatial) -> (B, classes, *spatial). What a tile sees beyond the image is mirrored (Ronneberger
    et al. 2015, figure 2, https://arxiv.org/abs/1505.04597). Nothing is blended, for no voxel depends on its tile: the
    result is that of the whole image in one pass, unless the network averages over its input (norm "instance" or
    "group"). Memory: the image, the result and one batch of tiles; the padded image never exists as a whole. `slabs`
    gives the result without holding it. Where memory is short, fewer tiles are predicted at once.

    Args:
        tile_size: voxels of a tile's output, one number or one per axis; the network's next greater size is taken. 388
            are the tiles of the paper, which see 572. Larger tiles predict fewer voxels twice, and need more memory.
        batch_size: tiles per call of the network.
        padding: "reflect" (as numpy's, of any width), "replicate" or "circular".
        device: where the result is put together, such as "cpu"; None: where the image is.
    """

    def __init__(
        self,
        tile_size: int | Sequence[int],
        batch_size: int = 4,
        padding: str = "reflect",
        device: str | torch.device | None = None,
    ) -> None:
        sizes = tuple(tile_size) if isinstance(tile_size, Iterable) else (tile_size,)
        if min(sizes) < 1 or batch_size < 1:
            raise InputError(f"tile_size={tile_size!r} and batch_size={batch_size} must be 1 or more")
        if padding not in PADDINGS:
            raise InputError(f"padding={padding!r} is unknown", remedy=f"choose one of {', '.join(PADDINGS)}")
        self.tile_size, self.batch_size, self.padding, self.device = tile_size, batch_size, padding, device
        self.fitting = Fitting()

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the network's output (B, C, *spatial) for images (B, channels, *spatial)."""
        return joined(self.slabs(inputs, network, *args, **kwargs), inputs)[0]

    def slabs(
        self,
        image: torch.Tensor,
        network: Callable[..., torch.Tensor],
        *args: Any,
        mirrored: Sequence[int] = (),
        **kwargs: Any,
    ) -> Iterator[Slab]:
        """Yield what calling returns in slabs: the tiles of one row, or of as many as make a batch.

        Args:
            image: (B, channels, *spatial).
            network: of valid convolutions, see `ValidNetwork`.
            *args: go to the network.
            **kwargs: likewise.
            mirrored: axes of the batch, from 2 on, along which the network sees the image mirrored; the result is
                mirrored back.
        """
        images, sizes, axes = convert_to_tensor(image), _sizes_of(network), tuple(mirrored)
        size = images.shape[2:]
        tile, sources = self._tile_size(sizes, size), self._sources(size, sizes, axes, images.device)
        rows, *columns = self._spans(size, sizes, axes)

        def predict(batch: Sequence[tuple[int, tuple[Span, ...]]]) -> torch.Tensor:
            tiles = [_cut(images[item], sources, [span.corner for span in spans], tile) for item, spans in batch]
            return network(torch.stack(tiles), *args, **kwargs)

        together = self._rows_together(images, columns)
        for first in range(0, len(rows), together):
            group = rows[first : first + together]
            start, stop = group[0].start, group[-1].stop
            slab = _Canvas((len(images), stop - start, *size[1:]), self.device or images.device)
            places = list(product(range(len(images)), product(group, *columns)))
            for batch, outputs in self.fitting.predictions(places, self.batch_size, predict, slab.to_host):
                for (item, spans), output in zip(batch, outputs, strict=True):
                    slab.paste(item, output, spans, start, axes)
                del outputs
            yield from in_pieces(Slab(start, stop, slab.values))

    def tiles(
        self, size: Sequence[int], network: Any, mirrored: Sequence[int] = ()
    ) -> tuple[Size, list[list[Span]], list[torch.Tensor]]:
        """Return what tiles see of an image of this size: how many voxels, where, and which of the image those are.

        Args:
            size: (*spatial) of the image.
            network: of valid convolutions, see `ValidNetwork`.
            mirrored: axes of the batch, from 2 on, along which the network sees the image mirrored.
        """
        sizes, axes = _sizes_of(network), tuple(mirrored)
        sources = self._sources(size, sizes, axes, HOST)
        return self._tile_size(sizes, size), self._spans(size, sizes, axes), sources

    def planes_held(self, image: torch.Tensor, network: Any) -> int:
        """Return how many planes of an image's prediction, (B, channels, *spatial), are in `slabs` at once."""
        rows, *columns = self._spans(image.shape[2:], _sizes_of(network))
        together = self._rows_together(image, columns)
        groups = [rows[first : first + together] for first in range(0, len(rows), together)]
        return max(group[-1].stop - group[0].start for group in groups)

    def _rows_together(self, images: torch.Tensor, columns: Sequence[Sequence[Span]]) -> int:
        return -(-self.batch_size // (len(images) * prod(map(len, columns))))

    def _spans(self, size: Sequence[int], sizes: ValidNetwork, mirrored: Sequence[int] = ()) -> list[list[Span]]:
        """What each tile contributes along each axis, in the order of the image: its part up to the next tile."""
        tile, whole = self._tile_size(sizes, size), sizes.valid_input_size(size)
        found = []
        corners = _corners(sizes.output_size(tile), sizes.output_size(whole), sizes.divisor)
        for axis, (starts, length) in enumerate(zip(corners, size, strict=True), 2):
            # The last tile ends with the padded image, and may begin beyond the image itself.
            ends = [min(end, length) for end in (*starts[1:], length)]
            pairs = [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
            if axis in mirrored:
                found.append([Span(start, length - end, length - start) for start, end in reversed(pairs)])
            else:
                found.append([Span(start, start, end) for start, end in pairs])
        return found

    def _tile_size(self, sizes: ValidNetwork, image_size: Sequence[int]) -> Size:
        """Voxels that the network sees of a tile: as asked, but no more than for the whole image."""
        # An output below the divisor would leave gaps between tiles, which start at its multiples.
        limits = (self.tile_size, sizes.divisor, image_size)
        asked, least, whole = (sizes.valid_input_size(at_least) for at_least in limits)
        return tuple(min(max(pair), most) for *pair, most in zip(asked, least, whole, strict=True))

    def _sources(
        self, image_size: Sequence[int], sizes: ValidNetwork, mirrored: Sequence[int], device: torch.device
    ) -> list[torch.Tensor]:
        """For each voxel along each axis of the padded image, the voxel of the image that it repeats."""
        found = []
        whole = sizes.valid_input_size(image_size)
        for axis, (length, padded, cut) in enumerate(zip(image_size, whole, sizes.margin, strict=True), 2):
            source = PADDINGS[self.padding](torch.arange(padded, device=device) - cut // 2, length)
            found.append(length - 1 - source if axis in mirrored else source)
        return found


class Span(NamedTuple):
    """What a tile contributes along one axis.

    Attributes:
        corner: where it starts in the padded image, which may be mirrored.
        start, stop: the voxels of the image that it gives.
    """

    corner: int
    start: int
    stop: int


class _Canvas:
    """Some planes of a result, (B, K, *size), which tiles are pasted into; on the host where memory is short."""

    def __init__(self, size: Sequence[int], device: torch.device | str) -> None:
        self.images, *self.size = size
        self.device, self.values = torch.device(device), torch.empty(0)

    def paste(self, item: int, output: torch.Tensor, spans: Sequence[Span], origin: int, mirrored: Size) -> None:
        """Put a tile (K, *tile) in its place, without what other tiles give or the image lacks."""
        if not self.values.numel():
            self.values = allocate((self.images, len(output), *self.size), output.dtype, self.device)
        given: list[Any] = [slice(span.stop - span.start) for span in spans]
        own = output[:, *given]
        rows, *columns = spans
        across: list[Any] = [slice(span.start, span.stop) for span in columns]
        place = self.values[item, :, rows.start - origin : rows.stop - origin, *across]
        place.copy_(mirror(own, [axis - 1 for axis in mirrored]))

    def to_host(self) -> bool:
        """Move what there is to the host; False where it is there already."""
        if self.device == HOST:
            return False
        logger.warning("%s is short of memory: the result is put together on the host", self.device)
        self.device, self.values = HOST, self.values.to(HOST)
        return True


def _sizes_of(network: Any) -> ValidNetwork:
    """The network itself, out of what DistributedDataParallel made of it; torch.compile passes attributes on."""
    while not hasattr(network, "valid_input_size"):
        if not hasattr(network, "module"):
            reason = f"{type(network).__name__} does not say which sizes it takes (valid_input_size, margin, divisor)"
            raise InputError(reason, remedy="use pipeline.networks.unet.UNet with padding='valid'")
        network = network.module
    if not any(network.margin):
        reason = "this network fills up the border of each tile with zeros, so its tiles would not fit together"
        remedy = "use padding='valid', or pipeline.inferers.sliding_window.SlidingWindow, which blends"
        raise InputError(reason, remedy=remedy)
    return network


def _corners(tile: Size, whole: Size, divisor: Size) -> list[list[int]]:
    """Where the outputs of the tiles start along each axis, so that they cover the whole output.

    A pooling makes pairs of voxels, on every level, and a tile sees the pairs of the whole image only where its shift
    is a multiple of the divisor: with 16, the 388 of the paper start at 0, 384, 768. All legal sizes differ by
    multiples of it, so that the last tile, which ends with the image, is in line as well. A tile shorter than the
    divisor is the whole image.
    """
    return [
        [*range(0, end - length, max(length // step, 1) * step), end - length]
        for length, end, step in zip(tile, whole, divisor, strict=True)
    ]


def _cut(image: torch.Tensor, sources: Sequence[torch.Tensor], corner: Sequence[int], tile: Size) -> torch.Tensor:
    """What a tile sees, (channels, *tile). Its input starts where its output does, in voxels of the padded image."""
    indices = [source[start : start + size] for source, start, size in zip(sources, corner, tile, strict=True)]
    voxels: tuple[Any, ...] = torch.meshgrid(*indices, indexing="ij")
    return image[:, *voxels]
