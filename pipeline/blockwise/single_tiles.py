"""A part of a volume, predicted in the tiles of the whole, for networks of valid convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch

from pipeline.blockwise.network_image import NetworkImage
from pipeline.inferers.fitting import HOST, allocate
from pipeline.inferers.overlap_tile import OverlapTileInferer, Span
from pipeline.inferers.slabs import Slab, in_pieces, mirror
from pipeline.volumes.region_reader import Box


def tile_slabs(
    tiling: OverlapTileInferer,
    network: Callable[..., torch.Tensor],
    image: NetworkImage,
    box: Box,
    mirrored: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """Yield what `OverlapTileInferer` predicts of a whole volume, in a box of it: (1, K, planes, *across).

    Each tile that touches the box is read with what it sees around, which is mirrored beyond the volume's border.

    Args:
        tiling: the tiles of the whole volume.
        network: of valid convolutions, on `device`.
        image: the whole volume.
        box: the voxels that are wanted.
        mirrored: axes of a batch along which the network sees the image mirrored.
        device: where the network is.
    """
    axes = tuple(mirrored)
    tile, spans, sources = tiling.tiles(image.size, network, axes)
    rows, *columns = (
        [span for span in axis if span.start < part.stop and span.stop > part.start]
        for axis, part in zip(spans, box, strict=True)
    )

    def predict(batch: Sequence[tuple[Span, ...]]) -> torch.Tensor:
        return network(torch.stack([_seen(image, sources, place, tile) for place in batch]).to(device))

    for row in rows:
        start, stop = max(row.start, box[0].start), min(row.stop, box[0].stop)
        wanted = (slice(start, stop), *box[1:])
        values = torch.empty(0)
        for batch, outputs in tiling.fitting.predictions(
            list(product([row], *columns)), tiling.batch_size, predict, bool
        ):
            for place, output in zip(batch, outputs, strict=True):
                if not values.numel():
                    edges = [part.stop - part.start for part in wanted]
                    values = allocate((1, len(output), *edges), output.dtype, HOST)
                _paste(values[0], output, place, wanted, axes)
        yield from in_pieces(Slab(start, stop, values))


def _seen(
    image: NetworkImage, sources: Sequence[torch.Tensor], place: Sequence[Span], tile: Sequence[int]
) -> torch.Tensor:
    """What the network sees of a tile, (channels, *tile), read at once and put in its order."""
    numbers = [source[span.corner : span.corner + n] for source, span, n in zip(sources, place, tile, strict=True)]
    values = image.read(tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in numbers))
    for axis, found in enumerate(numbers, 1):
        values = values.index_select(axis, found - found.min())
    return values


def _paste(
    values: torch.Tensor, output: torch.Tensor, place: Sequence[Span], wanted: Box, mirrored: Sequence[int]
) -> None:
    """Put what a tile (K, *tile) gives of the wanted box in its place there."""
    given: list[slice] = [slice(span.stop - span.start) for span in place]
    own = mirror(output[:, *given], [axis - 1 for axis in mirrored])
    ends = [(max(span.start, part.start), min(span.stop, part.stop)) for span, part in zip(place, wanted, strict=True)]
    source = [slice(start - span.start, stop - span.start) for (start, stop), span in zip(ends, place, strict=True)]
    target = [slice(start - part.start, stop - part.start) for (start, stop), part in zip(ends, wanted, strict=True)]
    values[:, *target] = own[:, *source]
