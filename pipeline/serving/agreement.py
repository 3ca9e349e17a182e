"""An exported network is compared with the one that it was made of, before anybody serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.errors import InputError

LARGEST_DIFFERENCE = 1e-3  # of two logits, in units of the largest
WITHOUT_SIZES = (48, 65)  # voxels per axis, for a network that does not say which it takes


def example(network: nn.Module, batch: int = 2, multiple: int = 3, more: int = 0) -> torch.Tensor:
    """Return noise of a size that a network takes: of `multiple` times its divisor and `more` voxels, or the next."""
    channels = getattr(network, "in_channels", 1)
    known: Any = network
    if hasattr(network, "valid_input_size"):
        size = known.valid_input_size([multiple * step + more for step in known.divisor])
    else:
        axes = {parameter.dim() - 2 for parameter in network.parameters()} & {2, 3}
        size = (WITHOUT_SIZES[bool(more)],) * max(axes, default=2)
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(multiple))


@torch.no_grad()
def check_agreement(network: nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], format_: str) -> None:
    """Refuse an export that gives other logits than the network, for two batches of different number and size.

    Args:
        network: the trained one.
        exported: from images (N, C, *size) to logits.
        format_: its name, for the message.
    """
    for images in (example(network), example(network, batch=1, multiple=4, more=1)):
        expected = _run(network, images, f"{format_} is served for any size: the network itself")
        found = _run(exported, images, f"{format_} cannot compute this network: what was exported")
        if found.shape != expected.shape:
            raise _refusal(f"{format_} gives {tuple(found.shape)} in place of {tuple(expected.shape)}")
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
        if not difference <= LARGEST_DIFFERENCE:
            much = f"{difference:.2g} of the largest logit"
            raise _refusal(f"{format_} cannot compute this network: what was exported differs by {much}")


def _run(compute: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, who: str) -> torch.Tensor:
    try:
        return compute(images)
    except Exception as error:  # whatever is made of a size that something was not made for
        raise _refusal(f"{who} fails on {tuple(images.shape)}: {error}") from error


def _refusal(reason: str) -> InputError:
    short = " ".join(reason.split())[:300]
    return InputError(short, file="to", remedy="serve the bundle by another format, or by mlflow models serve")
