"""MONAI's sliding window for images of any size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple, ensure_tuple_rep

from pipeline.errors import InputError


class SlidingWindow(SlidingWindowInferer):
    """A SlidingWindowInferer whose window shrinks to an image that is smaller.

    MONAI pads such an image up to the window: with made-up values or, by a reflection wider than the image, with an
    error. `pipeline.networks.unet.UNet` takes any size, so nothing has to be made up.

    Args:
        args, kwargs: those of `monai.inferers.SlidingWindowInferer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not all(0 <= overlap < 1 for overlap in ensure_tuple(self.overlap)):
            raise InputError(f"overlap is {self.overlap}", remedy="give a part of the window, from 0 to below 1")

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Return the network's output (B, C, *spatial) for images (B, channels, *spatial)."""
        image_size = inputs.shape[2:]
        windows = ensure_tuple_rep(self.roi_size, len(image_size))
        fitted = copy.copy(self)
        fitted.roi_size = [
            min(window, size) if window and window > 0 else size
            for window, size in zip(windows, image_size, strict=True)
        ]
        return super(SlidingWindow, fitted).__call__(inputs, network, *args, **kwargs)
