"""The preprocessing of an image that is never in memory: numbers of the whole are found first, in passes over it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    CastToTyped,
    ClipIntensityPercentilesd,
    EnsureTyped,
    NormalizeIntensityd,
    ScaleIntensityRanged,
    ThresholdIntensityd,
)
from monai.utils import convert_to_tensor
from tqdm import tqdm

from pipeline.blockwise.file_grid import boxes_between, grown
from pipeline.blockwise.network_image import TILE, NetworkImage
from pipeline.blockwise.order_statistics import Moments, Piece, percentiles
from pipeline.errors import InputError
from pipeline.transforms.clip_and_standardise import ClipAndStandardised
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.standardise import Standardised
from pipeline.transforms.to_grid import ToGridd

POINTWISE = (ScaleIntensityRanged, ClipAndStandardised, ThresholdIntensityd, EnsureTyped, CastToTyped)
NEEDS_WHOLE = (Standardised, NormalizeIntensityd, ClipIntensityPercentilesd)
SMALL_TYPE = 2  # bytes of whole numbers that are counted one by one
IMAGE = "image"
logger = logging.getLogger(__name__)
Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class Fixed:
    """A step whose numbers have been found: one of each kind for a channel.

    Attributes:
        kind: "normalise", (x - first) / second; or "clip", to first and second.
        first, second: the numbers of each channel.
        nonzero: leave 0 as it is.
    """

    kind: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    nonzero: bool = False

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Change intensities (C, ...) in place."""
        for channel, first, second in zip(values, self.first, self.second, strict=True):
            if self.kind == "clip":
                channel.clamp_(first, second)
                continue
            zero = channel == 0 if self.nonzero else None
            channel.sub_(first).div_(second)
            if zero is not None:
                channel[zero] = 0
        return values


class Pointwise:
    """A transform of records that treats each voxel by itself, for intensities alone."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the intensities (C, ...) as the transform makes them."""
        changed = convert_to_tensor(self.transform({IMAGE: values})[IMAGE], track_meta=False)
        return changed.to(torch.float32)


def split_preprocessing(transforms: Sequence[Transform]) -> tuple[ToGridd | None, list[Transform]]:
    """Return what brings an image to the network's grid, and what treats its intensities; the reading is left out.

    A transform that can neither be applied voxel by voxel nor be told by numbers of the whole image is an error.
    """
    steps = [step for step in transforms if not isinstance(step, StrictLoadImaged)]
    first = steps[0] if steps else None
    to_grid = first if isinstance(first, ToGridd) else None
    steps = [step for step in steps if step is not to_grid and IMAGE in getattr(step, "keys", (IMAGE,))]
    for step in steps:
        _check(step)
    return to_grid, steps


def _check(step: Transform) -> None:
    name, problem = type(step).__name__, None
    if isinstance(step, ClipIntensityPercentilesd) and step.scaler.sharpness_factor is not None:
        problem = f"{name} with a sharpness_factor is not computed block by block"
    elif isinstance(step, NormalizeIntensityd) and len(_given(step)) == 1:
        problem = f"{name} with one of subtrahend and divisor is not computed block by block"
    elif not (isinstance(step, POINTWISE + NEEDS_WHOLE) or getattr(step, "voxelwise", False)):
        problem = f"{name} in the preprocessing needs the whole image, which does not fit into memory"
    if problem is not None:
        known = ", ".join(kind.__name__ for kind in (ToGridd, *NEEDS_WHOLE, *POINTWISE))
        remedy = f"use some of {known} (ToGridd first), or give it `voxelwise = True` if it treats each voxel by itself"
        raise InputError(problem, remedy=remedy)


def _given(step: NormalizeIntensityd) -> list[Any]:
    return [number for number in (step.normalizer.subtrahend, step.normalizer.divisor) if number is not None]


def _needs_whole(step: Transform) -> bool:
    return isinstance(step, NEEDS_WHOLE) and not (isinstance(step, NormalizeIntensityd) and _given(step))


def fix(
    image: NetworkImage, transforms: Sequence[Transform], known: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Set the steps of an image, and return the numbers of those that need the whole of it, as JSON can say them.

    Args:
        image: without steps so far.
        transforms: the second part that `split_preprocessing` returns.
        known: what an earlier call returned for the same image and transforms; then no pass is made.
    """
    found: list[dict[str, Any]] = []
    source: _Source | None = None
    for step in transforms:
        if not _needs_whole(step):
            image.steps.append(Pointwise(step))
            continue
        if len(found) < len(known):
            numbers = dict(known[len(found)])
            fixed = Fixed(numbers["kind"], tuple(numbers["first"]), tuple(numbers["second"]), numbers["nonzero"])
        else:
            source = source or _Source(image)
            fixed = _fixed(step, source)
        image.steps.append(fixed)
        found.append(asdict(fixed))
    return found


def _fixed(step: Transform, source: _Source) -> Fixed:
    """Return a transform with the numbers of the image as the steps so far leave it."""
    name, channels = type(step).__name__, source.image.channels
    if isinstance(step, ClipIntensityPercentilesd):
        percents = [0 if step.scaler.lower is None else step.scaler.lower]
        percents += [100 if step.scaler.upper is None else step.scaler.upper]
        groups = source.groups(step.scaler.channel_wise)
        pairs = [percentiles(partial(source.pieces, group, name), percents) for group in groups]
        pairs *= channels // len(pairs)
        return Fixed("clip", *zip(*pairs, strict=True))  # type: ignore[arg-type]
    nonzero = isinstance(step, NormalizeIntensityd) and step.normalizer.nonzero
    by_channel = isinstance(step, Standardised) or step.normalizer.channel_wise  # type: ignore[attr-defined]
    numbers = []
    for moments in source.moments(source.groups(by_channel), name, nonzero):
        if isinstance(step, Standardised) and moments.high == moments.low:
            numbers.append((moments.low, 1.0))  # which becomes 0, without the rounding of its mean
        else:
            numbers.append((moments.mean, moments.std or 1.0))
    numbers *= channels // len(numbers)
    return Fixed("normalise", *zip(*numbers, strict=True), nonzero=nonzero)  # type: ignore[arg-type, misc]


class _Source:
    """The intensities of an image in pieces, as its steps so far leave them; few different ones are counted."""

    def __init__(self, image: NetworkImage) -> None:
        self.image, self.table = image, None
        dtype = np.dtype(image.reader.dtype)
        if dtype.kind in "iu" and dtype.itemsize <= SMALL_TYPE and image.grid.keeps_size:
            self.table = _counts(image, dtype)

    def groups(self, by_channel: bool) -> list[list[int]]:
        channels = list(range(self.image.channels))
        return [[channel] for channel in channels] if by_channel else [channels]

    def moments(self, groups: Sequence[Sequence[int]], name: str, nonzero: bool) -> list[Moments]:
        found = [Moments() for _ in groups]
        for values, counts in self._passed(name):
            for moments, group in zip(found, groups, strict=True):
                for channel in group:
                    wanted = values[channel] != 0 if nonzero else slice(None)
                    moments.add(values[channel][wanted], None if counts is None else counts[channel][wanted])
        return found

    def pieces(self, group: Sequence[int], name: str) -> Iterator[Piece]:
        for values, counts in self._passed(name):
            for channel in group:
                yield values[channel], None if counts is None else counts[channel]

    def _passed(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield values (C, N), and how often each counts, in one pass."""
        if self.table is not None:
            values = torch.from_numpy(np.repeat(self.table[0][None], self.image.channels, 0).astype(np.float32))
            for step in self.image.steps:
                values = step(values)
            yield values.numpy(), self.table[1]
            return
        title = f"looking at the whole image for {name}"
        for box in tqdm(list(self.image.tiles()), title, unit="box", delay=2, disable=None):
            yield self.image.read(box).flatten(1).numpy(), None


def _counts(image: NetworkImage, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return all values of a type, and how many voxels of each channel have them, from one pass over the file."""
    lowest, highest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    counts = np.zeros((image.channels, highest - lowest + 1), np.int64)
    reader = image.reader
    edges = grown([min(edge, n) for edge, n in zip(reader.chunk, reader.shape, strict=True)], reader.shape, TILE)
    borders = [[*range(0, n, edge), n] for n, edge in zip(reader.shape, edges, strict=True)]
    boxes = list(boxes_between(borders))
    for box in tqdm(boxes, "counting the intensities of the whole image", unit="box", delay=2, disable=None):
        for found, values in zip(counts, reader.read(box), strict=True):
            first = int(values.flat[0])
            if (values == first).all():
                found[first - lowest] += values.size
            else:
                found += np.bincount(values.ravel().astype(np.intp) - lowest, minlength=len(found))
    return np.arange(lowest, highest + 1), counts
