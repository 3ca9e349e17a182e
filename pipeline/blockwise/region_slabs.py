"""What an inferer predicts of a whole volume, in a box of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.plane_buffer import PlaneBuffer
from pipeline.blockwise.rolling_windows import RollingWindows
from pipeline.blockwise.single_tiles import tile_slabs
from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.slabs import Slab
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.volumes.region_reader import Box

REMEDY = "use SlidingWindow or OverlapTileInferer of pipeline.inferers, or an AveragedInferer of mirrors around one"


class RegionSlabs:
    """Predict boxes of a volume as an inferer predicts the whole.

    Args:
        inferer: a `SlidingWindow`, an `OverlapTileInferer`, or an `AveragedInferer` of mirrors around one of them.
        network: from windows to logits, on `device`.
        device: where the network is.
    """

    def __init__(self, inferer: Any, network: Callable[..., torch.Tensor], device: torch.device | str = "cpu") -> None:
        self.tiling = tiling_of(inferer)
        self.mean = inferer if isinstance(inferer, AveragedInferer) else None
        self.network, self.device = network, device
        self.windows = RollingWindows(self.tiling, network, device) if isinstance(self.tiling, SlidingWindow) else None

    @torch.no_grad()
    def __call__(self, image: NetworkImage, box: Box, means: bool = True) -> Iterator[Slab]:
        """Yield the logits of a box in slabs, (1, K, planes, *across), at least float32.

        Args:
            image: the whole volume.
            box: of it.
            means: False: the logits of windows may come times a number above 0 of each voxel's own, and a slab is only
                valid until the next is asked for.
        """
        if self.mean is None:
            yield from map(_wide, self._version(image, box, self._buffer(image, box, 1), (), means))
            return
        versions = mirrors_of(self.mean, len(image.size))
        buffer = self._buffer(image, box, 1 + (len(versions) > 1))
        slabs = [self._version(image, box, buffer, axes, means=True) for axes in versions]
        yield from map(_wide, self.mean.mean_of(slabs, box[0].start, box[0].stop))

    def _buffer(self, image: NetworkImage, box: Box, windows: int) -> PlaneBuffer | None:
        """The planes of all windows that touch a box, of which so many windows' height are held."""
        if self.windows is None:
            return None
        window, _ = self.tiling.layout(image.size)
        return PlaneBuffer(image, with_halo(box, window, image.size), windows * window[0])

    def _version(
        self, image: NetworkImage, box: Box, buffer: PlaneBuffer | None, axes: Sequence[int], means: bool
    ) -> Iterator[Slab]:
        if self.windows is not None and buffer is not None:
            return self.windows.slabs(buffer, image.size, box, axes, means)
        return tile_slabs(self.tiling, self.network, image, box, axes, self.device)


def with_halo(box: Box, window: Sequence[int], size: Sequence[int]) -> Box:
    """Return a box with all that windows which touch it can see."""
    return tuple(
        slice(max(part.start - n + 1, 0), min(part.stop + n - 1, most))
        for part, n, most in zip(box, window, size, strict=True)
    )


def tiling_of(inferer: Any) -> Any:
    """Return the inferer of one version; one that cannot be had in boxes is an error."""
    inner = inferer.inferer if isinstance(inferer, AveragedInferer) else inferer
    if isinstance(inferer, AveragedInferer) and inferer.versions(4) is None:
        reason = f"transforms='{inferer.transforms}' turns the image as a whole, which does not fit into memory"
        raise InputError(reason, remedy="use transforms='mirrors'")
    if not isinstance(inner, SlidingWindow | OverlapTileInferer):
        raise InputError(f"{type(inner).__name__} predicts no volume block by block", remedy=REMEDY)
    if isinstance(inner, SlidingWindow) and inner.with_coord:
        raise InputError("with_coord gives the network more than a window", remedy="leave it out")
    return inner


def mirrors_of(inferer: AveragedInferer, spatial_dims: int) -> list[tuple[int, ...]]:
    """Return the axes of a batch along which each version is mirrored."""
    return inferer.versions(2 + spatial_dims) or [()]


def _wide(slab: Slab) -> Slab:
    dtype = torch.promote_types(slab.logits.dtype, torch.float32)
    return slab if slab.logits.dtype == dtype else replace(slab, logits=slab.logits.to(dtype))
