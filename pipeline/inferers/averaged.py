"""Test-time augmentation: the mean prediction of turned or mirrored versions of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor

from pipeline.errors import InputError

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
    """

    def __init__(
        self, inferer: Callable[..., torch.Tensor], transforms: str = "dihedral", activation: str | None = None
    ) -> None:
        named = (("transforms", transforms, VERSIONS), ("activation", activation or "softmax", ACTIVATIONS))
        for argument, value, choices in named:
            if value not in choices:
                raise InputError(f"{argument}={value!r} is unknown", remedy=f"choose one of {', '.join(choices)}")
        self.inferer, self.transforms, self.activation = inferer, transforms, activation

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the logits of the mean probabilities, (B, classes, *spatial)."""
        mean = torch.zeros(())
        for count, probabilities in enumerate(self._probabilities(inputs, network, *args, **kwargs), 1):
            mean = mean + (probabilities - mean) / count
        return _like(inputs, self._logits(mean))

    def predict_with_spread(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what calling returns, and how much the versions disagree: a map of the uncertainty.

        This is the standard deviation of each class's probability over the versions, (B, classes, *spatial), from 0 to
        0.5. With softmax, that of the background in channel 0 is that of the whole foreground too.
        """
        mean, squares, count = torch.zeros(()), torch.zeros(()), 0
        for count, probabilities in enumerate(self._probabilities(inputs, network, *args, **kwargs), 1):
            difference = probabilities - mean
            mean = mean + difference / count
            squares = squares + difference * (probabilities - mean)  # Welford's sum: no difference of large numbers
        return _like(inputs, self._logits(mean)), _like(inputs, (squares / count).sqrt())

    def _probabilities(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> Iterator[torch.Tensor]:
        """The probabilities that each version gives, turned back: (B, classes, *spatial)."""
        images = convert_to_tensor(inputs)
        for change, back in VERSIONS[self.transforms](images.shape[2:]):
            version = change(images)
            logits = self.inferer(version, network, *args, **kwargs)
            if logits.shape[2:] != version.shape[2:]:
                reason = f"the prediction has {tuple(logits.shape[2:])} voxels, its image {tuple(version.shape[2:])}"
                remedy = "use pipeline.inferers.overlap_tile.OverlapTileInferer inside"
                raise InputError(reason, remedy=remedy)
            activation = self._activation(logits)
            if activation == "softmax" and logits.shape[1] == 1:
                raise InputError("the softmax of a single channel is 1 everywhere", remedy="use activation='sigmoid'")
            yield back(ACTIVATIONS[activation](logits.to(_at_least_float32(logits))))

    def _activation(self, channels: torch.Tensor) -> str:
        return self.activation or ("sigmoid" if channels.shape[1] == 1 else "softmax")

    def _logits(self, mean: torch.Tensor) -> torch.Tensor:
        if self._activation(mean) == "sigmoid":
            return torch.logit(mean, eps=torch.finfo(mean.dtype).eps)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


ACTIVATIONS: dict[str, Change] = {"softmax": partial(torch.softmax, dim=1), "sigmoid": torch.sigmoid}


def _none(size: Sequence[int]) -> Iterator[Version]:
    yield _same, _same


def _mirrors(size: Sequence[int]) -> Iterator[Version]:
    axes = range(2, 2 + len(size))
    for count in range(len(axes) + 1):
        for chosen in combinations(axes, count):
            mirror = partial(torch.flip, dims=chosen)
            yield mirror, mirror


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


VERSIONS: dict[str, Callable[[Sequence[int]], Iterator[Version]]] = {
    "rotations7": _rotations7,
    "dihedral": _dihedral,
    "mirrors": _mirrors,
    "none": _none,
}


def _same(image: torch.Tensor) -> torch.Tensor:
    return image


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


def _like(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The output with the input's metadata, if it has any."""
    return convert_to_dst_type(output, inputs, dtype=output.dtype, device=output.device)[0]
