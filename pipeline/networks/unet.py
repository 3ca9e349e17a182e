"""The U-Net, in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from pipeline.errors import InputError
from pipeline.networks.attention import refinements
from pipeline.networks.blocks import (
    INTERPOLATION,
    ConvBlock,
    Down,
    Layer,
    Up,
    check_choice,
    extrapolated,
    he_initialise,
    upsampling,
)

Size = int | Sequence[int]  # one number for all axes, or one per axis


class UNet(nn.Module):
    """U-Net: a contracting path, an expanding path, and a connection between them on every level.

    (N, in_channels, *size) -> (N, out_channels, *size), or `output_size(size)` where the padding is "valid". The output
    are logits. `UNet(padding="valid")` is the network of Ronneberger et al. 2015, figure 1
    (https://arxiv.org/abs/1505.04597): 572 x 572 -> 388 x 388, 31,030,658 parameters.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: channels of each level, from full resolution down; two levels or more.
        padding: "same" (the output is as large as the image, of any size that leaves a norm more than one voxel on the
            lowest level) or "valid" (no zeros are made up at the border).
        norm: None, "batch", "instance", "group", or a pair such as ("group", {"num_groups": 4}).
        activation: a name in MONAI's `Act` factory, or a pair such as ("leakyrelu", {"negative_slope": 0.1}).
        upsample: "deconv", or 1x1 convolution and interpolation: "nearest", "linear", "cubic" (2D only).
        upsample_norm: whether the norm also follows the up-sampling.
        dropout: probability at the end of the contracting path, which is its two lowest levels, in [0, 1).
        kernel_size: odd width of the convolutions in voxels, for all axes or per axis.
        stem_kernel: that of the first convolution, such as 7; None: `kernel_size`.
        strides: factor between two levels: one for all, or one per step down, each for all axes or per axis, such as
            ((1, 2, 2), 2) for three levels and thick slices.
        context: correct the lowest map and those of the expanding path by their averages over the image (`Context`).
        attention: None, "global" (`GlobalAttention`), or "separate" for each class (`SeparateAttention`).
        attention_levels: one or more levels for it, from 0 at full resolution; -1 is the lowest.
        attention_queries: learned regions of the attention, 2 or more.
        deep_supervision: in training, return a list of logits: at full resolution, then at each lower level's.
        checkpointing: in training, compute each level twice to save memory.

    Attributes:
        divisor: product of the strides, per axis. `torch.export` takes dynamic sizes that are multiples of it.
        margin: voxels by which the output is smaller than the image, per axis, half at each end: 184 in the paper.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        *,
        padding: str = "same",
        norm: Layer | None = None,
        activation: Layer = "relu",
        upsample: str = "deconv",
        upsample_norm: bool = False,
        dropout: float = 0.0,
        kernel_size: Size = 3,
        stem_kernel: Size | None = None,
        strides: int | Sequence[Size] = 2,
        context: bool = False,
        attention: str | None = None,
        attention_levels: int | Sequence[int] = -1,
        attention_queries: int = 16,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(spatial_dims, padding, upsample)
        _check_combinations(padding, norm, upsample_norm, deep_supervision, context or attention is not None)
        _check_numbers(in_channels, out_channels, channels, dropout)
        kernel = _kernel("kernel_size", kernel_size, spatial_dims)
        stem = _kernel("stem_kernel", kernel_size if stem_kernel is None else stem_kernel, spatial_dims)
        steps = _steps(strides, spatial_dims, len(channels) - 1)
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        self.deep_supervision = deep_supervision
        self._set_sizes(kernel, stem, steps, padding, upsample)

        convolve = partial(
            ConvBlock, spatial_dims, kernel_size=kernel, padding=padding, norm=norm, activation=activation
        )
        grow = partial(upsampling, spatial_dims, mode=upsample, padding=padding, norm=norm if upsample_norm else None)
        refine = refinements(
            spatial_dims, channels, kernel, out_channels, context, attention, attention_levels, attention_queries
        )
        # The paper says drop-out "layers", and the network that its authors released has them on the two lowest levels.
        drops = [0.0] * (len(channels) - 2) + [dropout, dropout]
        self.first = convolve(in_channels, channels[0], first_kernel=stem, dropout=drops[0])
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (above, below) in enumerate(pairwise(channels)):
            # The lowest map is refined where it is made, every other one on the way up.
            end = refine[-1] if level == len(steps) - 1 else None
            down = convolve(above, below, dropout=drops[level + 1], refine=end)
            up = convolve(2 * above, above, refine=refine[level])
            self.downs.append(Down(spatial_dims, steps[level], down))
            self.ups.insert(0, Up(grow(below, above, stride=steps[level]), up, padding))
        outputs = channels[:-1] if deep_supervision else channels[:1]
        self.heads = nn.ModuleList(Conv[Conv.CONV, spatial_dims](width, out_channels, 1) for width in outputs)
        self.apply(he_initialise)
        for part in (self.first, *self.downs, *self.ups):
            part.checkpointing = checkpointing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images `x`; in training with `deep_supervision`, a list of them."""
        if not torch.jit.is_scripting():
            self._check_shape(x)
        skips: list[torch.Tensor] = []
        expanded: list[torch.Tensor] = []
        # The sizes are those of figure 1, for one channel of 572 x 572.
        x = self.first(x)  # 64 channels of 568 x 568
        for down in self.downs:
            skips.append(x)
            x = down(x)  # 128 of 280 x 280, 256 of 136 x 136, 512 of 64 x 64, 1024 of 28 x 28
        for up in self.ups:
            x = up(x, skips.pop())  # 512 of 52 x 52, 256 of 100 x 100, 128 of 196 x 196, 64 of 388 x 388
            if self.deep_supervision and self.training:
                expanded.append(x)
        # The annotated type is the only one that TorchScript can return.
        if not torch.jit.is_scripting() and self.deep_supervision and self.training:
            return [head(level) for head, level in zip(self.heads, expanded[::-1], strict=True)]  # type: ignore
        return self.heads[0](x)  # 2 of 388 x 388

    def output_size(self, input_size: Size) -> tuple[int, ...]:
        """Voxels of the output per axis: (388, 388) for the 572 of the paper.

        With valid padding every size that enters a pooling must divide by its stride. An image that does not meet that
        raises an `InputError` with the nearest sizes that do.
        """
        size = _per_axis("input_size", input_size, self.spatial_dims)
        near = [self._nearest(length, axis) for axis, length in enumerate(size)]
        if any(length not in lengths for length, lengths in zip(size, near, strict=True)):
            legal = ", ".join(f"{' or '.join(map(str, lengths))} on axis {axis}" for axis, lengths in enumerate(near))
            raise InputError(f"a valid network cannot take an image of {size} voxels", remedy=f"make it {legal}")
        return tuple(length - margin for length, margin in zip(size, self.margin, strict=True))

    def valid_input_size(self, at_least: Size) -> tuple[int, ...]:
        """Voxels per axis of the smallest image whose output has `at_least` so many: 572 for 388, and 588 for 389."""
        size = _per_axis("at_least", at_least, self.spatial_dims)
        return tuple(self._nearest(length + self.margin[axis], axis)[-1] for axis, length in enumerate(size))

    def _nearest(self, length: int, axis: int) -> list[int]:
        """The length itself if the network takes it, else the next shorter and the next longer one that it takes."""
        smallest, step = self._smallest[axis], self._step[axis]
        if length <= smallest:
            return [smallest]
        below = length - (length - smallest) % step
        return [length] if below == length else [below, below + step]

    def _set_sizes(
        self, kernel: Sequence[int], stem: Sequence[int], steps: Sequence[Sequence[int]], padding: str, upsample: str
    ) -> None:
        strides = list(zip(*steps, strict=True))  # of one axis, from full resolution down
        self.divisor = tuple(map(math.prod, strides))
        ends = [(1, 1)] * self.spatial_dims
        if padding == "valid":
            ends = [_smallest(*axis, upsample) for axis in zip(kernel, stem, strides, strict=True)]
        self._smallest = tuple(before for before, _ in ends)
        self._step = self.divisor if padding == "valid" else (1,) * self.spatial_dims
        self.margin = tuple(before - after for before, after in ends)

    def _check_shape(self, x: torch.Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            return
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            reason = f"an image batch of shape {tuple(x.shape)} does not fit the network"
            raise InputError(reason, remedy=f"give (batch, {self.in_channels}, {self.spatial_dims} sizes)")
        self.output_size(x.shape[2:])


def _smallest(kernel: int, stem: int, strides: Sequence[int], upsample: str) -> tuple[int, int]:
    """Shortest axis that valid convolutions can take, and the length of its output: (188, 4) for the paper's.

    Every other length that they can take is greater by a multiple of the strides' product, as is its output.
    """
    lost = 2 * (kernel - 1)  # 4, by the two convolutions of a level
    cut = [2 * extrapolated(upsample, stride) for stride in strides]
    bottom = 1
    for stride, made_up in zip(strides, cut, strict=True):
        bottom = math.ceil((bottom + lost + made_up) / stride)  # 3, 4, 4, 4
    before, after = bottom + lost, bottom
    for stride, made_up in zip(reversed(strides), reversed(cut), strict=True):
        before = stride * before + lost  # 20, 44, 92, 188
        after = stride * after - made_up - lost  # 4, 4, 4, 4
    return before + stem - kernel, after


def _per_axis(argument: str, value: Size, spatial_dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Iterable) else (value,) * spatial_dims
    if len(values) != spatial_dims or min(values) < 1:
        remedy = f"give one positive number, or {spatial_dims}"
        raise InputError(f"{argument}={value!r} does not fit {spatial_dims} axes", remedy=remedy)
    return values


def _kernel(argument: str, value: Size, spatial_dims: int) -> tuple[int, ...]:
    kernel = _per_axis(argument, value, spatial_dims)
    if any(width % 2 == 0 for width in kernel):
        raise InputError(f"{argument}={value!r} is even, so no voxel is its centre", remedy="use odd numbers")
    return kernel


def _steps(strides: int | Sequence[Size], spatial_dims: int, count: int) -> list[tuple[int, ...]]:
    """The factors per axis of each step down."""
    steps = [strides] * count if isinstance(strides, int) else list(strides)
    if len(steps) != count:
        reason = f"strides={strides!r} has {len(steps)} entries, but {count + 1} levels have {count} steps between them"
        raise InputError(reason, remedy=f"give one number, or {count} entries")
    return [_per_axis("strides", step, spatial_dims) for step in steps]


def _check_choices(spatial_dims: int, padding: str, upsample: str) -> None:
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims={spatial_dims!r} is neither 2 nor 3")
    check_choice("padding", padding, ("same", "valid"))
    check_choice("upsample", upsample, ("deconv", *INTERPOLATION))
    if upsample == "cubic" and spatial_dims == 3:
        raise InputError("upsample='cubic' exists in 2D only", remedy="use 'linear'")


def _check_combinations(
    padding: str, norm: Layer | None, upsample_norm: bool, deep_supervision: bool, sees_all: bool
) -> None:
    if upsample_norm and norm is None:
        raise InputError("upsample_norm=True without a norm", remedy="name one, such as norm='batch'")
    if sees_all and padding == "valid":
        reason = "context or attention with padding='valid': the output of a tile would depend on where it was cut"
        raise InputError(reason, remedy="use padding='same'")
    if deep_supervision and padding == "valid":
        reason = "deep_supervision with padding='valid': the lower levels would cover more of the image than the output"
        raise InputError(reason, remedy="use padding='same'")


def _check_numbers(in_channels: int, out_channels: int, channels: Sequence[int], dropout: float) -> None:
    if len(channels) < 2:
        raise InputError(f"channels={channels!r} makes fewer than two levels", remedy="name the channels of each level")
    if min(in_channels, out_channels, *channels) < 1:
        numbers = f"in_channels={in_channels}, out_channels={out_channels}, channels={channels!r}"
        raise InputError(f"{numbers}: a number of channels is below 1")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} is not in [0, 1)")
