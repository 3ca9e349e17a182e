"""Which windows of an image need no pass of the network: constant ones that equal another, and empty ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import torch

KEPT = 2  # constant windows whose output is kept
LEFT_OUT = "nowhere above `skip_below`"
BACKGROUND = 10.0  # the logit of the background beside zeros: a probability of 0.9999 between two classes


def kinds_of_windows(
    images: torch.Tensor,
    starts: Sequence[Sequence[int]],
    window: Sequence[int],
    skip_below: float | None,
    at_least: int = 2,
) -> list[Hashable]:
    """Return for each window, rows first and then images, what it equals, or None for one that is like no other.

    Windows whose channels are constant, and have the same values, are one kind; the `KEPT` most frequent ones count.

    Args:
        images: (B, channels, *spatial).
        starts: where windows start along each spatial axis.
        window: voxels per axis.
        skip_below: windows that are nowhere above are `LEFT_OUT`; None: there are no such windows.
        at_least: how many windows make a kind; 1 where equal ones may follow.
    """
    low = high = images.detach()
    for axis, (begins, n) in enumerate(zip(starts, window, strict=True), 2):
        low = torch.stack([low.narrow(axis, begin, n).amin(axis) for begin in begins], axis)
        high = torch.stack([high.narrow(axis, begin, n).amax(axis) for begin in begins], axis)
    low, high = (values.movedim((2, 0, 1), (0, 1, -1)).flatten(0, -2).cpu() for values in (low, high))
    constant = (low == high).all(1).tolist()
    values = [tuple(of_one) if same else None for of_one, same in zip(low.tolist(), constant, strict=True)]
    often = {value for value, count in Counter(filter(None, values)).most_common(KEPT) if count >= at_least}
    kinds: list[Hashable] = [value if value in often else None for value in values]
    if skip_below is not None:
        empty = (high <= skip_below).all(1).tolist()
        kinds = [LEFT_OUT if left else kind for left, kind in zip(empty, kinds, strict=True)]
    return kinds


def is_random(network: object) -> bool:
    """Return whether equal windows may give different outputs: in training mode, be it that of a dropout alone."""
    parts = network.modules() if isinstance(network, torch.nn.Module) else [network]
    return any(getattr(part, "training", False) for part in parts)


def background_like(output: torch.Tensor) -> torch.Tensor:
    """Return logits (K, *roi) of the background: `BACKGROUND` for class 0, or its negative of a single channel."""
    logits = output.new_zeros(len(output), *[1] * (output.ndim - 1))
    logits[0] = BACKGROUND if len(output) > 1 else -BACKGROUND
    return logits.expand_as(output)
