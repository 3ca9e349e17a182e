"""What lets every position of a map see the whole map: context encoding and attention over regions."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from pipeline.errors import InputError
from pipeline.networks.blocks import check_choice


class Context(nn.Module):
    """Scale and shift each channel by what the averages of all channels over the map say.

    (N, C, *size) -> the same: x(p) -> x(p) (1 + u) + v, with (u, v) = tanh(W m + b) of a 1x1 convolution from C to 2 C
    channels, and m = mean_p x(p). A normalisation that follows can undo a shift but not a scale, and a scale alone
    raises no channel from 0. In place of tanh, a ReLU that is off for the one vector of an image would learn nothing.

    Global averages as context: ParseNet, https://arxiv.org/abs/1506.04579, and the encoding of
    https://arxiv.org/abs/1803.08904; scale and shift: https://arxiv.org/abs/1709.07871.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.mean = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.conv = Conv[Conv.CONV, spatial_dims](channels, 2 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Correct `x`."""
        scale, shift = torch.tanh(self.conv(self.mean(x))).chunk(2, dim=1)
        return x + x * scale + shift


class GlobalAttention(nn.Module):
    """Sort the positions into regions, let the regions look at each other, and tell the positions what they saw.

    (N, C, *size) -> the same. With position p, regions r and s, and a learned query q_r of each region:

        a_r(p) = softmax_r(q_r . x(p) / sqrt(C))            how far position p belongs to region r
        f_r    = sum_p a_r(p) x(p) / sum_p a_r(p)           the region's mean
        w_rs   = softmax_s(U f_r . V f_s / sqrt(C'))        importance of region s to region r, C' = C / 2
        x(p)  -> x(p) + sum_r a_r(p) (F sum_s w_rs f_s + b)

    The cost is linear in the number of positions, where attention of positions to positions would be quadratic.
    Projection to regions and back: https://arxiv.org/abs/1811.12814; importance: https://arxiv.org/abs/1706.03762.

    Args:
        channels: C.
        queries: number of regions, >= 2.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        if queries < 2:
            raise InputError(f"attention_queries={queries} leaves no regions to tell apart", remedy="use 2 or more")
        width = max(1, channels // 2)
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.receive = nn.Linear(channels, width, bias=False)  # U
        self.send = nn.Linear(channels, width, bias=False)  # V, whose bias would cancel in the softmax
        self.fuse = nn.Linear(channels, channels)  # F, b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to each position what its regions saw."""
        positions = x.flatten(2)  # (N, C, P)
        queries = self.queries / math.sqrt(self.fuse.in_features)
        # A softmax over positions of the logarithm is a_r(p) / sum_p a_r(p), and finite for a region without positions.
        belongs = torch.matmul(queries, positions).log_softmax(1)  # (N, R, P)
        means = torch.matmul(belongs.softmax(2), positions.transpose(1, 2))  # (N, R, C)
        seen = torch.matmul(self.importance(means), means)
        update = torch.matmul(self.fuse(seen).transpose(1, 2), belongs.exp())  # (N, C, P)
        return x + update.view_as(x)

    def importance(self, means: torch.Tensor) -> torch.Tensor:
        """Weights w of region to region, each row of sum 1: (N, R, C) -> (N, R, R)."""
        scores = torch.matmul(self.receive(means), self.send(means).transpose(1, 2))
        return torch.softmax(scores / math.sqrt(self.send.out_features), dim=2)


class SeparateAttention(nn.Module):
    """Local and global attention side by side, in one branch per class.

    (N, C, *size) -> the same: x -> x + F [l_1, g_1, ..., l_K, g_K], with a 1x1 convolution F and l, g of
    `ClassAttention`. The branches share no weights, so that a class with few samples can have regions of its own. Which
    branch serves which class is left to the training.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        classes: K; each class has C / K channels, at least 1, so that their number does not change the cost.
        queries: number of regions per class, >= 2.
        kernel_size: odd width of the local attention in voxels, per axis.
    """

    def __init__(
        self, spatial_dims: int, channels: int, classes: int, queries: int, kernel_size: Sequence[int]
    ) -> None:
        super().__init__()
        width = max(1, channels // classes)
        self.classes = nn.ModuleList(
            ClassAttention(spatial_dims, channels, width, queries, kernel_size) for _ in range(classes)
        )
        self.fuse = Conv[Conv.CONV, spatial_dims](2 * classes * width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the attention of all classes found."""
        return x + self.fuse(torch.cat([attention(x) for attention in self.classes], dim=1))


class ClassAttention(nn.Module):
    """Local and global attention of one class.

    (N, C, *size) -> (N, 2 C', *size): l = y sigmoid(D * y), which a depthwise convolution D sees around the position,
    and g = `GlobalAttention` of y, with a 1x1 convolution y = R x.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        width: C'.
        queries: number of regions, >= 2.
        kernel_size: odd width of D in voxels, per axis.
    """

    def __init__(self, spatial_dims: int, channels: int, width: int, queries: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        convolution, border = Conv[Conv.CONV, spatial_dims], tuple(size // 2 for size in kernel_size)
        self.reduce = convolution(channels, width, 1)
        self.near = convolution(width, width, tuple(kernel_size), padding=border, groups=width)
        self.far = GlobalAttention(width, queries)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend near and far."""
        x = self.reduce(x)
        return torch.cat([x * torch.sigmoid(self.near(x)), self.far(x)], dim=1)


def refinements(
    spatial_dims: int,
    channels: Sequence[int],
    kernel_size: Sequence[int],
    classes: int,
    context: bool,
    attention: str | None,
    levels: int | Sequence[int],
    queries: int,
) -> list[nn.Module]:
    """What each level of a network does to its map after the convolutions: attention, then context, or nothing.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of each level, from full resolution down.
        kernel_size: as in `SeparateAttention`.
        classes: as in `SeparateAttention`.
        context: whether every level has a `Context`.
        attention: None, "global" or "separate".
        levels: one or more levels for the attention, from 0 at full resolution; -1 is the lowest.
        queries: as in `GlobalAttention`.
    """
    count = len(channels)
    where = list(levels) if isinstance(levels, Iterable) else [levels]
    if not where or any(level not in range(-count, count) for level in where):
        reason = f"attention_levels={levels!r} does not fit {count} levels"
        raise InputError(reason, remedy=f"use numbers from 0 to {count - 1}, or -1 for the lowest")
    if attention is not None:
        check_choice("attention", attention, ("global", "separate"))
    attended = {level % count for level in where}
    refined: list[nn.Module] = []
    for level, width in enumerate(channels):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if attention == "global" and level in attended:
            layers["attention"] = GlobalAttention(width, queries)
        if attention == "separate" and level in attended:
            layers["attention"] = SeparateAttention(spatial_dims, width, classes, queries, kernel_size)
        if context:
            layers["context"] = Context(spatial_dims, width)
        refined.append(nn.Sequential(layers))
    return refined
