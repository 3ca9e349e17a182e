"""A random glow over an image: light from out of focus, or from the edge of a well."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from pipeline.errors import InputError

BEYOND = 0.25  # how far outside the image a glow's centre may lie, in parts of the image's size


@dataclass(frozen=True)
class Glow:
    """One draw.

    Args:
        centre: per axis, in parts of the image's size.
        width: standard deviation, in parts of the image's longest side.
        strength: summand at the centre.
    """

    centre: tuple[float, ...]
    width: float
    strength: float


class RandGlowd(RandomizableTransform, MapTransform):
    """Add a wide Gaussian of light somewhere in or beside the image.

    Networks that never saw one take bright background for a large object.

    Items are channel-first tensors or arrays, 2D or 3D; results are plain float32 tensors. Every channel gets the same.

    Args:
        keys: images; each gets a draw of its own.
        strength: largest summand, in units of the image, as a normalisation left them; it is drawn from [0, strength].
        width: range of the standard deviation, in parts of the image's longest side.
        prob: probability of a glow.
    """

    def __init__(
        self,
        keys: KeysCollection,
        strength: float = 2.0,
        width: Sequence[float] = (0.2, 0.6),
        prob: float = 0.2,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)
        if strength < 0:
            raise InputError(f"strength is {strength}", remedy="give 0 or more")
        if len(width) != 2 or not 0 < width[0] <= width[1]:
            raise InputError(f"width is {width}", remedy="give (smallest, largest), both above 0")
        if not 0 <= prob <= 1:
            raise InputError(f"prob is {prob}", remedy="use 0 to 1")
        self.strength, self.probability = strength, prob
        self.narrowest, self.widest = width

    def randomize(self, dims: int) -> Glow | None:  # type: ignore[override]
        """Draw for an image of `dims` axes; how many numbers are drawn does not depend on what they are."""
        wanted = self.R.random_sample() < self.probability
        centre = self.R.uniform(-BEYOND, 1 + BEYOND, dims)
        width, strength = self.R.uniform(self.narrowest, self.widest), self.R.uniform(0, self.strength)
        return Glow(tuple(centre.tolist()), float(width), float(strength)) if wanted else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with a glow over every key that draws one."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = convert_to_tensor(result[key], track_meta=False).float()
            draw = self.randomize(image.ndim - 1)
            result[key] = image if draw is None else image + glow(image.shape[1:], draw).to(image)
        return result


def glow(shape: Sequence[int], draw: Glow) -> torch.Tensor:
    """Return the light that a draw adds to an image of this spatial shape."""
    width = draw.width * max(shape)
    light = torch.full([1] * len(shape), draw.strength)
    for axis, (size, centre) in enumerate(zip(shape, draw.centre, strict=True)):
        along = torch.exp(-0.5 * ((torch.arange(size) - centre * (size - 1)) / width) ** 2)
        light = light * along.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return light
