"""The overlap-tile strategy of the U-Net paper: images of any size for networks with valid convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Protocol

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor

from pipeline.errors import InputError

Size = tuple[int, ...]

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
    "group"). Memory: the image, the result and one batch of tiles; the padded image never exists as a whole.

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

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the network's output (B, C, *spatial) for images (B, channels, *spatial)."""
        images, sizes = convert_to_tensor(inputs), _sizes_of(network)
        image_size = images.shape[2:]
        tile, whole = self._tile_size(sizes, image_size), sizes.valid_input_size(image_size)
        sources = self._sources(image_size, whole, sizes.margin, images.device)
        corners = _corners(sizes.output_size(tile), sizes.output_size(whole), sizes.divisor)
        places = list(product(range(len(images)), corners))
        result = torch.empty(0)
        for first in range(0, len(places), self.batch_size):
            batch = places[first : first + self.batch_size]
            tiles = torch.stack([_cut(images[item], sources, corner, tile) for item, corner in batch])
            outputs = network(tiles, *args, **kwargs)
            if first == 0:
                shape = (len(images), outputs.shape[1], *image_size)
                result = outputs.new_empty(shape, device=self.device or images.device)
            for (item, corner), output in zip(batch, outputs, strict=True):
                _paste(output, result[item], corner)
        return convert_to_dst_type(result, inputs, dtype=result.dtype, device=result.device)[0]

    def _tile_size(self, sizes: ValidNetwork, image_size: Sequence[int]) -> Size:
        """Voxels that the network sees of a tile: as asked, but no more than for the whole image."""
        # An output below the divisor would leave gaps between tiles, which start at its multiples.
        limits = (self.tile_size, sizes.divisor, image_size)
        asked, least, whole = (sizes.valid_input_size(at_least) for at_least in limits)
        return tuple(min(max(pair), most) for *pair, most in zip(asked, least, whole, strict=True))

    def _sources(
        self, image_size: Sequence[int], whole: Size, margin: Size, device: torch.device
    ) -> list[torch.Tensor]:
        """For each voxel along each axis of the padded image, the voxel of the image that it repeats."""
        return [
            PADDINGS[self.padding](torch.arange(padded, device=device) - cut // 2, length)
            for length, padded, cut in zip(image_size, whole, margin, strict=True)
        ]


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


def _corners(tile: Size, whole: Size, divisor: Size) -> list[Size]:
    """Where the outputs of the tiles start, so that they cover the whole output.

    A pooling makes pairs of voxels, on every level, and a tile sees the pairs of the whole image only where its shift
    is a multiple of the divisor: with 16, the 388 of the paper start at 0, 384, 768. All legal sizes differ by
    multiples of it, so that the last tile, which ends with the image, is in line as well. A tile shorter than the
    divisor is the whole image.
    """
    starts = [
        (*range(0, end - length, max(length // step, 1) * step), end - length)
        for length, end, step in zip(tile, whole, divisor, strict=True)
    ]
    return list(product(*starts))


def _cut(image: torch.Tensor, sources: Sequence[torch.Tensor], corner: Size, tile: Size) -> torch.Tensor:
    """What a tile sees, (channels, *tile). Its input starts where its output does, in voxels of the padded image."""
    indices = [source[start : start + size] for source, start, size in zip(sources, corner, tile, strict=True)]
    voxels: tuple[Any, ...] = torch.meshgrid(*indices, indexing="ij")
    return image[:, *voxels]


def _paste(output: torch.Tensor, result: torch.Tensor, corner: Size) -> None:
    """Put a tile in its place, without what it has beyond the image; where tiles overlap, the later one stays."""
    place = result[:, *(slice(start, start + size) for start, size in zip(corner, output.shape[1:], strict=True))]
    place.copy_(output[:, *(slice(size) for size in place.shape[1:])])
