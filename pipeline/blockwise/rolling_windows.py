"""A part of a volume, predicted in the windows of the whole: their sums roll along the first axis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from typing import Any

import torch

from pipeline.blockwise.plane_buffer import PlaneBuffer
from pipeline.errors import InputError
from pipeline.inferers.equal_windows import LEFT_OUT, background_like, is_random, kinds_of_windows
from pipeline.inferers.rolling_sum import RollingSum
from pipeline.inferers.slabs import Slab, mirror
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.volumes.region_reader import Box

REMEMBERED = 4  # constant windows whose outputs are kept from row to row


class RollingWindows:
    """What `SlidingWindow` predicts of a whole volume, in a box of it.

    The same windows with the same weights are summed up in the same order, so that a voxel's sum is that of the whole,
    bit by bit, where the network's output for a window does not depend on which others it sees beside it.

    Args:
        tiling: the windows of the whole volume.
        network: from windows (N, channels, *roi) to (N, K, *roi), on `device`.
        device: where the network is, and sums are held.
    """

    def __init__(
        self, tiling: SlidingWindow, network: Callable[..., torch.Tensor], device: torch.device | str = "cpu"
    ) -> None:
        self.tiling, self.network, self.device = tiling, network, torch.device(device)
        self.known: dict[tuple[int, ...], OrderedDict[Hashable, torch.Tensor]] = {}
        self.windows = self.forwards = 0

    def slabs(
        self, planes: PlaneBuffer, size: Sequence[int], box: Box, mirrored: Sequence[int] = (), means: bool = True
    ) -> Iterator[Slab]:
        """Yield the planes of a box in slabs, (1, K, planes, *across); `start` and `stop` count in the whole volume.

        Args:
            planes: of the image; they reach beyond the box as far as the windows that touch it do.
            size: (*spatial) of the whole volume.
            box: the voxels that are wanted.
            mirrored: axes of a batch along which the network sees the image mirrored.
            means: divide by the sums of the weights, as `SlidingWindow.slabs`; else as `SlidingWindow.sums`, and a
                slab is only valid until the next is asked for.
        """
        axes = tuple(mirrored)
        window, starts = self.tiling.layout(size, axes)
        rows, *across = touching(starts, window, box)
        corner = [rows[0], *(begins[0] for begins in across)]
        reach = [rows[-1] + window[0], *(begins[-1] + n for begins, n in zip(across, window[1:], strict=True))]
        inside = [slice(part.start - at, part.stop - at) for part, at in zip(box[1:], corner[1:], strict=True)]
        shifted = [[start - at for start in begins] for begins, at in zip((rows, *across), corner, strict=True)]
        span = [end - at for end, at in zip(reach, corner, strict=True)]
        weight = self.tiling.weight(torch.empty(0, device=self.device), window, axes)
        sums = RollingSum((1, *span), shifted, weight, torch.float32, self.tiling.device or self.device)
        done = 0
        for number in range(len(rows)):
            self._add_row(sums, planes, rows[number], shifted, window, axes, corner)
            final = shifted[0][number + 1] if number + 1 < len(rows) else box[0].stop - rows[0]
            wanted = min(max(box[0].start - rows[0], done), final)
            for _ in sums.take(done, wanted, means=False):
                pass  # planes before the box, of which not all windows are there
            for slab in sums.take(wanted, final, means):
                yield Slab(slab.start + rows[0], slab.stop + rows[0], slab.logits[:, :, :, *inside])
            done = final

    def _add_row(
        self,
        sums: RollingSum,
        planes: PlaneBuffer,
        row: int,
        shifted: Sequence[Sequence[int]],
        window: tuple[int, ...],
        axes: tuple[int, ...],
        corner: Sequence[int],
    ) -> None:
        """Predict the windows that begin at one plane, and add them up in their order."""
        image = planes.planes(row, row + window[0])[None]
        held = [part.start for part in planes.across]
        columns = [
            [start + at - origin for start in begins]
            for begins, at, origin in zip(shifted[1:], corner[1:], held, strict=True)
        ]
        kinds = kinds_of_windows(image, [[0], *columns], window, self.tiling.skip_below, at_least=1)
        if is_random(self.network):
            kinds = [kind if kind == LEFT_OUT else None for kind in kinds]
        places = list(product(*columns))

        def predict(batch: Sequence[int]) -> torch.Tensor:
            cuts = [
                tuple(slice(at, at + n) for at, n in zip(places[number], window[1:], strict=True)) for number in batch
            ]
            windows = torch.cat([image[:, :, :, *cut] for cut in cuts]).to(self.device)
            return mirror(_checked(self.network(mirror(windows, axes)), window), axes)

        known = self.known.setdefault(axes, OrderedDict())
        while len(known) > REMEMBERED:
            known.popitem(last=False)
        outputs = self._outputs(kinds, predict, sums.to_host, known)
        for place in product([row - corner[0]], *shifted[1:]):
            sums.add(0, place, next(outputs))

    def _outputs(
        self,
        kinds: Sequence[Hashable],
        predict: Callable[[Sequence[int]], torch.Tensor],
        make_room: Callable[[], bool],
        known: OrderedDict[Hashable, torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        """Yield the output of each window of a row; the network sees no constant one that it has seen lately."""
        new = dict.fromkeys(kind for kind in kinds if kind is not None and kind not in known)
        seen = [number for number, kind in enumerate(kinds) if kind is None or new.pop(kind, ...) is None]
        self.windows, self.forwards = self.windows + len(kinds), self.forwards + len(seen)
        batches = self.tiling.fitting.predictions(seen, self.tiling.sw_batch_size, predict, make_room)
        predicted = (output for _, outputs in batches for output in outputs)
        for kind in kinds:
            if kind is None:
                yield next(predicted)
                continue
            if kind not in known:
                output = next(predicted)
                known[kind] = background_like(output) if kind == LEFT_OUT else output.clone()
            known.move_to_end(kind)
            yield known[kind]


def touching(starts: Sequence[Sequence[int]], window: Sequence[int], box: Box) -> list[list[int]]:
    """Return, along each axis, where the windows begin that touch a box."""
    return [
        [start for start in begins if start < part.stop and start + n > part.start]
        for begins, n, part in zip(starts, window, box, strict=True)
    ]


def _checked(output: Any, window: tuple[int, ...]) -> torch.Tensor:
    if isinstance(output, torch.Tensor) and tuple(output.shape[2:]) == window:
        return output
    given = f"voxels {tuple(output.shape[2:])}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    reason = f"the network gives {given} for a window of {window}, not one tensor of that size"
    raise InputError(reason, remedy="use a network that pads, and gives one output")
