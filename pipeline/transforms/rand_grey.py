"""Random contrast, brightness, blur and noise of an image in as few passes over it as they take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.networks.layers import gaussian_1d
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch.nn import functional

from pipeline.errors import InputError

CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
WIDTH = 4.0  # standard deviations at which the blur's kernel ends


@dataclass(frozen=True)
class Grey:
    """One draw: what happens to the grey values, in this order; None where nothing does.

    Args:
        gamma: exponent of the contrast.
        scale: factor.
        shift: summand.
        sigma: standard deviations of the blur in pixels, per axis.
        noise: standard deviation of the noise.
        seed: of the noise.
    """

    gamma: float | None = None
    scale: float = 1.0
    shift: float = 0.0
    sigma: tuple[float, ...] | None = None
    noise: float | None = None
    seed: int = 0


class RandGreyd(RandomizableTransform, MapTransform):
    """Change grey values at random: contrast, then scale, shift, blur and noise, each with a probability of its own.

    `y = blur(scale * c(x) + shift) + N(0, noise)`, where `c(x) = range * ((x - min) / range)^gamma + min`. It means
    what MONAI's RandAdjustContrastd, RandScaleIntensityd, RandShiftIntensityd, RandGaussianSmoothd and
    RandGaussianNoised mean one after the other, in a fifth of their time.

    Items are channel-first tensors or arrays; results are plain float32 tensors.

    Args:
        keys: images; each gets draws of its own.
        gamma: range of the exponent; below 1 it lightens.
        gamma_prob: probability of another contrast.
        scale: the factor is drawn from [1 - scale, 1 + scale].
        scale_prob: probability of a factor.
        shift: the summand is drawn from [-shift, shift], in units of the image, as a normalisation left them.
        shift_prob: probability of a summand.
        blur: range of the Gaussian's standard deviation in pixels: one for all axes, or one per axis.
        blur_prob: probability of a blur. What lies outside the image counts as 0.
        noise: largest standard deviation of the noise; it is drawn from [0, noise].
        noise_prob: probability of noise.
    """

    def __init__(
        self,
        keys: KeysCollection,
        gamma: tuple[float, float] = (1.0, 1.0),
        gamma_prob: float = 0.0,
        scale: float = 0.0,
        scale_prob: float = 0.0,
        shift: float = 0.0,
        shift_prob: float = 0.0,
        blur: Sequence[float] | Sequence[Sequence[float]] = (0.0, 0.0),
        blur_prob: float = 0.0,
        noise: float = 0.0,
        noise_prob: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)
        _check_ranges({"gamma": gamma, "blur": blur}, {"scale": scale, "shift": shift, "noise": noise})
        if not np.min(gamma) > 0:
            raise InputError(f"gamma is {gamma}", remedy="use exponents above 0")
        self.probabilities = np.array([gamma_prob, scale_prob, shift_prob, blur_prob, noise_prob])
        if self.probabilities.min() < 0 or self.probabilities.max() > 1:
            raise InputError(f"one of the probabilities {self.probabilities} is none", remedy="use 0 to 1")
        self.gamma, self.scale, self.shift, self.blur, self.noise = gamma, scale, shift, blur, noise

    def randomize(self, dims: int) -> Grey:  # type: ignore[override]
        """Draw for an image of `dims` axes; how many numbers are drawn does not depend on what they are."""
        gamma, scale, shift, blur, noise = self.R.random_sample(5) < self.probabilities
        low, high = np.broadcast_to(self.blur, (dims, 2)).T
        exponent, factor, summand = self.R.uniform(*self.gamma), self.R.uniform(-1, 1), self.R.uniform(-1, 1)
        sigma, deviation = self.R.uniform(low, high), self.R.uniform(0, self.noise)
        seed = int(self.R.randint(2**32, dtype=np.uint64))
        return Grey(
            gamma=float(exponent) if gamma else None,
            scale=1 + float(factor) * self.scale if scale else 1.0,
            shift=float(summand) * self.shift if shift else 0.0,
            sigma=tuple(sigma.tolist()) if blur else None,
            noise=float(deviation) if noise else None,
            seed=seed,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the grey values of every key changed."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = convert_to_tensor(result[key], track_meta=False)
            result[key] = change(image.float(), self.randomize(image.ndim - 1))
        return result


def change(image: torch.Tensor, draw: Grey) -> torch.Tensor:
    """Return a channel-first image (C, *spatial) with its grey values changed; the image itself stays as it is."""
    factor, summand = draw.scale, draw.shift
    if draw.gamma is not None:
        low, high = (bound.item() for bound in image.aminmax())
        image = image.sub(low).mul_(1 / (high - low + 1e-7)).pow_(draw.gamma)
        factor, summand = factor * (high - low), summand + factor * low
    image = image * factor + summand if (factor, summand) != (1.0, 0.0) else image
    if draw.sigma is not None:
        image = smooth(image, draw.sigma)
    if draw.noise is not None:
        generator = torch.Generator(image.device).manual_seed(draw.seed)
        noise = torch.empty_like(image).normal_(0, draw.noise, generator=generator)
        image = noise.add_(image)
    return image


def smooth(image: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Convolve a channel-first image with a Gaussian, axis by axis, `sigma` pixels wide; zeros lie around it."""
    dims = image.ndim - 1
    image = image[:, None]  # the channels become a batch, so that one kernel serves all
    for axis, width in enumerate(sigma):
        if width <= 0:
            continue
        shape = [1] * dims
        shape[axis] = -1
        kernel = gaussian_1d(torch.tensor(width), truncated=WIDTH).to(image).reshape(1, 1, *shape)
        image = CONVOLVE[dims](image, kernel, padding="same")
    return image[:, 0]


def _check_ranges(ranges: Mapping[str, Sequence[Any]], widths: Mapping[str, float]) -> None:
    for name, given in ranges.items():
        limits = np.asarray(given, dtype=float)
        if limits.shape[-1:] != (2,) or limits.min() < 0 or (limits[..., 0] > limits[..., 1]).any():
            raise InputError(f"{name} is {given}", remedy="give (smallest, largest), neither below 0")
    for name, width in widths.items():
        if width < 0:
            raise InputError(f"{name} is {width}", remedy="give 0 or more")
