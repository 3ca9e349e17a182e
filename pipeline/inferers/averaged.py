"""Test-time augmentation: the mean prediction of turned or mirrored versions of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from pipeline.errors import InputError
from pipeline.inferers.fitting import allocate
from pipeline.inferers.slabs import Slab, in_pieces, joined, mirror

Change = Callable[[torch.Tensor], torch.Tensor]
Version = tuple[Change, Change]  # from the image to its version, and from the version's prediction back


class AveragedInferer(Inferer):
    """Mean of the class probabilities that a network gives to several versions of an image.

    Images (B, channels, *spatial) -> (B, classes, *spatial). With p the mean, the output is log p for "softmax" and
    log(p / (1 - p)) for "sigmoid": the same activation afterwards gives p, as if they were the network's own logits.
    Ronneberger et al. 2015 (https://arxiv.org/abs/1505.04597), table 1, average "7 rotated versions", and do not say
    which.

    Args:
        inferer: predicts one version, to logits of the version's own size, such as an `OverlapTileInferer`.
        transforms: "rotations7" (2D; by k 360/7 degrees for k = 0 to 6, linearly resampled, mirrored beyond the
            border), "dihedral" (2D; the 8 turns by 90 degrees and their mirror images, exact), "mirrors" (along every
            subset of the axes: 4 in 2D, 8 in 3D, exact) or "none".
        activation: from logits to probabilities: "softmax" over the classes, or "sigmoid" of each channel; None: the
            sigmoid of a single channel, and the softmax of several.
        axes: which ones "mirrors" mirrors, from 0 on; None: all. A class that has a side is told by the others.
    """

    def __init__(
        self,
        inferer: Callable[..., torch.Tensor],
        transforms: str = "dihedral",
        activation: str | None = None,
        axes: Sequence[int] | None = None,
    ) -> None:
        named = (
            ("transforms", transforms, (*VERSIONS, *MIRRORS)),
            ("activation", activation or "softmax", ACTIVATIONS),
        )
        for argument, value, choices in named:
            if value not in choices:
                raise InputError(f"{argument}={value!r} is unknown", remedy=f"choose one of {', '.join(choices)}")
        if axes is not None and (transforms != "mirrors" or not set(axes) <= {0, 1, 2}):
            remedy = "use transforms='mirrors' with numbers from 0 to 2"
            raise InputError(f"axes={axes!r} with transforms={transforms!r}", remedy=remedy)
        self.inferer, self.transforms, self.activation, self.axes = inferer, transforms, activation, axes

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the logits of the mean probabilities, (B, classes, *spatial)."""
        return joined(self.slabs(inputs, network, *args, **kwargs), inputs)[0]

    def predict_with_spread(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what calling returns, and how much the versions disagree: a map of the uncertainty.

        This is the standard deviation of each class's probability over the versions, (B, classes, *spatial), from 0 to
        0.5. With softmax, that of the background in channel 0 is that of the whole foreground too.
        """
        logits, spread = joined(self.slabs(inputs, network, *args, spread=True, **kwargs), inputs)
        assert spread is not None
        return logits, spread

    def slabs(
        self,
        image: torch.Tensor,
        network: Callable[..., torch.Tensor],
        *args: Any,
        spread: bool = False,
        **kwargs: Any,
    ) -> Iterator[Slab]:
        """Yield what calling returns in slabs, on request with the spread; other arguments go to the network.

        Mirrored versions are predicted side by side, plane by plane, where that holds less than the mean of the whole
        image; otherwise, and for other versions, one after the other is added to that.
        """
        images = convert_to_tensor(image)
        mirrored = self.versions(images.ndim)
        if mirrored is not None and hasattr(self.inferer, "planes_held"):
            inner = partial(self.inferer.slabs, images, network, *args, **kwargs)  # type: ignore[attr-defined]
            versions: list[Iterator[Slab]] = [map(self._probabilities, inner(mirrored=axes)) for axes in mirrored]
            others = (len(versions) - 1) * self.inferer.planes_held(images, network)
            average = _side_by_side if others <= images.shape[2] * (1 + spread) else _in_turn
        else:
            predict = partial(self._whole, images, lambda version: self.inferer(version, network, *args, **kwargs))
            changes = _mirrored(mirrored) if mirrored is not None else VERSIONS[self.transforms](images.shape[2:])
            versions = [predict(*version) for version in changes]
            average = _in_turn
        for mean in average(versions, images.shape[2], spread):
            for piece in in_pieces(mean):
                yield replace(piece, logits=self._logits(piece.logits))

    def versions(self, ndim: int) -> list[tuple[int, ...]] | None:
        """Return the axes of a batch of `ndim` axes that each version mirrors; None where versions are turned too."""
        if self.transforms not in MIRRORS:
            return None
        axes = MIRRORS[self.transforms](ndim) if self.axes is None else [axis + 2 for axis in self.axes]
        if any(axis >= ndim for axis in axes):
            remedy = f"name axes from 0 to {ndim - 3}"
            raise InputError(f"axes={self.axes!r} of an image of {ndim - 2} axes", remedy=remedy)
        return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]

    def mean_of(self, versions: Sequence[Iterator[Slab]], start: int, stop: int) -> Iterator[Slab]:
        """Yield what `slabs` does of the planes from `start` to `stop`, given each version's logits of them."""
        for mean in _side_by_side([map(self._probabilities, version) for version in versions], stop, False, start):
            for piece in in_pieces(mean):
                yield replace(piece, logits=self._logits(piece.logits))

    def _whole(self, images: torch.Tensor, predict: Change, change: Change, back: Change) -> Iterator[Slab]:
        """One slab of the probabilities that a version gives, turned back."""
        version = change(images)
        logits = predict(version)
        if logits.shape[2:] != version.shape[2:]:
            reason = f"the prediction has {tuple(logits.shape[2:])} voxels, its image {tuple(version.shape[2:])}"
            remedy = "use pipeline.inferers.overlap_tile.OverlapTileInferer inside"
            raise InputError(reason, remedy=remedy)
        probabilities = self._probabilities(Slab(0, version.shape[2], logits)).logits
        yield Slab(0, images.shape[2], back(probabilities))

    def _probabilities(self, slab: Slab) -> Slab:
        """A slab with probabilities in place of its logits."""
        activation = self._activation(slab.logits)
        if activation == "softmax" and slab.logits.shape[1] == 1:
            raise InputError("the softmax of a single channel is 1 everywhere", remedy="use activation='sigmoid'")
        return replace(slab, logits=ACTIVATIONS[activation](slab.logits.to(_at_least_float32(slab.logits))))

    def _activation(self, channels: torch.Tensor) -> str:
        return self.activation or ("sigmoid" if channels.shape[1] == 1 else "softmax")

    def _logits(self, mean: torch.Tensor) -> torch.Tensor:
        if self._activation(mean) == "sigmoid":
            return torch.logit(mean, eps=torch.finfo(mean.dtype).eps)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


ACTIVATIONS: dict[str, Change] = {"softmax": partial(torch.softmax, dim=1), "sigmoid": torch.sigmoid}


def _side_by_side(versions: Sequence[Iterator[Slab]], planes: int, spread: bool, start: int = 0) -> Iterator[Slab]:
    """The mean of all versions, and how they spread, plane by plane from `start` on."""
    slabs = [next(version) for version in versions]
    while start < planes:
        slabs = [slab if start < slab.stop else next(version) for slab, version in zip(slabs, versions, strict=True)]
        stop = min(slab.stop for slab in slabs)
        parts = [slab.logits[:, :, start - slab.start : stop - slab.start] for slab in slabs]
        mean = torch.zeros_like(parts[0])
        squares = torch.zeros_like(mean) if spread else None
        for count, part in enumerate(parts, 1):
            _add(part, count, mean, squares)
        yield Slab(start, stop, mean, None if squares is None else squares.div_(len(versions)).sqrt_())
        start = stop


def _in_turn(versions: Sequence[Iterator[Slab]], planes: int, spread: bool) -> Iterator[Slab]:
    """The same in one slab: each version is added to the mean of the whole image, and forgotten."""
    mean, squares = torch.empty(0), None
    for count, version in enumerate(versions, 1):
        for slab in version:
            part, own = slab.logits, slice(slab.start, slab.stop)
            if not mean.numel():
                shape = (*part.shape[:2], planes, *part.shape[3:])
                mean = allocate(shape, part.dtype, part.device, zeros=True)
                squares = allocate(shape, part.dtype, mean.device, zeros=True) if spread else None
            _add(part, count, mean[:, :, own], None if squares is None else squares[:, :, own])
    yield Slab(0, planes, mean, None if squares is None else squares.div_(len(versions)).sqrt_())


def _add(part: torch.Tensor, count: int, mean: torch.Tensor, squares: torch.Tensor | None) -> None:
    """Make the mean of `count` - 1 parts that of `count`, in place: no sum of squares is a difference of large numbers.

    Welford 1962, Note on a method for calculating corrected sums of squares and products.
    """
    part = part.to(mean.device)
    difference = part - mean
    mean.add_(difference / count)
    if squares is not None:
        squares.add_(difference.mul_(part - mean).to(squares.device))


def _mirrored(subsets: Sequence[tuple[int, ...]]) -> Iterator[Version]:
    for axes in subsets:
        change = partial(mirror, axes=axes)
        yield change, change


# Axes of a batch that are mirrored, in every subset.
MIRRORS: dict[str, Callable[[int], list[int]]] = {"mirrors": lambda ndim: list(range(2, ndim)), "none": lambda _: []}


def _dihedral(size: Sequence[int]) -> Iterator[Version]:
    _check_2d("dihedral", size)
    for quarters in range(4):
        for mirrored in (False, True):
            yield partial(_turn, quarters, mirrored), partial(_turn_back, quarters, mirrored)


def _rotations7(size: Sequence[int]) -> Iterator[Version]:
    _check_2d("rotations7", size)
    for k in range(7):
        angle = 2 * math.pi * k / 7
        yield partial(_rotate, angle, _around(size, angle)), partial(_rotate, -angle, size)


VERSIONS: dict[str, Callable[[Sequence[int]], Iterator[Version]]] = {"rotations7": _rotations7, "dihedral": _dihedral}


def _turn(quarters: int, mirrored: bool, image: torch.Tensor) -> torch.Tensor:
    return torch.rot90(image.flip(3) if mirrored else image, quarters, (2, 3))


def _turn_back(quarters: int, mirrored: bool, image: torch.Tensor) -> torch.Tensor:
    turned = torch.rot90(image, -quarters, (2, 3))
    return turned.flip(3) if mirrored else turned


def _rotate(angle: float, size: Sequence[int], image: torch.Tensor) -> torch.Tensor:
    """Turn an image about its centre onto a grid of another size, mirrored where the grid reaches beyond the image.

    The pixel at (y, x) from the centre becomes the value at (y cos - x sin, y sin + x cos).
    """
    if angle == 0:
        return image
    dtype = _at_least_float32(image)
    y, x = (torch.arange(n, dtype=dtype, device=image.device) - (n - 1) / 2 for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    source_y, source_x = y * math.cos(angle) - x * math.sin(angle), y * math.sin(angle) + x * math.cos(angle)
    # PyTorch counts from -1 at the first pixel's centre to 1 at the last one's.
    half_y, half_x = (max(n - 1, 1) / 2 for n in image.shape[2:])
    grid = torch.stack((source_x / half_x, source_y / half_y), dim=-1).expand(len(image), -1, -1, -1)
    return torch.nn.functional.grid_sample(
        image.to(dtype), grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )


def _around(size: Sequence[int], angle: float) -> tuple[int, int]:
    """Pixels of a grid that holds the centres of all pixels of the rotated image."""
    height, width = (n - 1 for n in size)
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    return math.ceil(height * cosine + width * sine) + 1, math.ceil(height * sine + width * cosine) + 1


def _check_2d(transforms: str, size: Sequence[int]) -> None:
    if len(size) != 2:
        reason = f"transforms='{transforms}' are those of a plane, but the image has {len(size)} axes"
        raise InputError(reason, remedy="use transforms='mirrors'")


def _at_least_float32(image: torch.Tensor) -> torch.dtype:
    return torch.promote_types(image.dtype, torch.float32)
