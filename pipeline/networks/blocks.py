"""What a U-Net is made of: two convolutions, one step down, one step up."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from monai.networks.layers.factories import Act, Conv, Norm, Pool, split_args
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from pipeline.errors import InputError

Layer = str | Sequence[Any]  # "relu", or a pair of the name and its arguments: ("leakyrelu", {"negative_slope": 0.1})

INTERPOLATION = {  # name of PyTorch's mode in 2D and in 3D
    "nearest": {2: "nearest", 3: "nearest"},
    "linear": {2: "bilinear", 3: "trilinear"},
    "cubic": {2: "bicubic"},
}


class Level(nn.Module):
    """A module that can run under gradient checkpointing.

    With `checkpointing` set, training keeps only the inputs of the module, and the backward pass computes the rest
    again: less memory for about a third more time, and the same gradients. Statistics of a batch norm are counted once.
    """

    checkpointing = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run `forward`, under checkpointing if that is wanted."""
        if self.checkpointing and self.training:
            options: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": self._contexts}
            return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)
        return super().__call__(*inputs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _counting_in_copies(self)


@contextmanager
def _counting_in_copies(network: nn.Module) -> Iterator[None]:
    """Let batch norms leave their running statistics as they are."""
    kept = [(part, dict(part._buffers)) for part in network.modules() if isinstance(part, _BatchNorm)]
    for part, buffers in kept:
        part._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for part, buffers in kept:
            part._buffers.update(buffers)


class ConvBlock(Level):
    """Two convolutions, each followed by normalisation and activation.

    (N, in_channels, *size) -> (N, out_channels, *size), or size - 2 (kernel_size - 1) where the padding is "valid".

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels after the first and after the second convolution.
        kernel_size: odd width of the kernels in voxels, per axis.
        first_kernel: that of the first convolution, if it differs.
        padding: "same" (zeros around the input) or "valid" (none).
        norm: as `norm_layer` takes it.
        activation: as `activation_layer` takes it.
        dropout: probability with which a value of the output is dropped in training, in [0, 1).
        refine: what happens to the map at the end, (N, out_channels, *size) -> the same; None: nothing.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Sequence[int],
        first_kernel: Sequence[int] | None = None,
        padding: str = "same",
        norm: Layer | None = None,
        activation: Layer = "relu",
        dropout: float = 0.0,
        refine: nn.Module | None = None,
    ) -> None:
        super().__init__()
        bias = norm is None  # a normalisation has its own
        convolve = partial(_convolution, spatial_dims, padding=padding, bias=bias)
        self.conv1 = convolve(in_channels, out_channels, first_kernel or kernel_size)
        self.norm1 = norm_layer(norm, spatial_dims, out_channels)
        self.act1 = activation_layer(activation)
        self.conv2 = convolve(out_channels, out_channels, kernel_size)
        self.norm2 = norm_layer(norm, spatial_dims, out_channels)
        self.act2 = activation_layer(activation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.refine = nn.Identity() if refine is None else refine

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve twice, then refine."""
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.refine(self.dropout(x))


class Down(Level):
    """One level down: max pooling, then the convolutions of the level below.

    (N, C, *size) -> (N, C', *(size / stride)), before the convolutions take off their border. A size that does not
    divide is rounded up: the last window is smaller, so that no voxel is left out.

    Args:
        spatial_dims: 2 or 3.
        stride: width and step of the pooling windows, per axis.
        block: the convolutions, C channels to C'.
    """

    def __init__(self, spatial_dims: int, stride: Sequence[int], block: nn.Module) -> None:
        super().__init__()
        self.pool = Pool[Pool.MAX, spatial_dims](tuple(stride), ceil_mode=True)
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool, then convolve."""
        return self.block(self.pool(x))


class Up(Level):
    """One level up: up-sample, concatenate with the contracting path's map of that level, convolve.

    Where the padding is "same", both maps start at the same corner, and the up-sampled one is cut to the other's size:
    5 voxels pool to 3, and 3 enlarge to 6, one too many. Where it is "valid", both have the same centre, and the
    contracting path's map is cut: from 64 x 64 to 56 x 56 on the paper's lowest level.

    Args:
        upsample: (N, C', *size) -> (N, C, *(stride size)), as `upsampling` makes it.
        block: the convolutions, 2 C channels to C.
        padding: that of the convolutions, "same" or "valid".
    """

    def __init__(self, upsample: nn.Module, block: nn.Module, padding: str = "same") -> None:
        super().__init__()
        self.upsample = upsample
        self.block = block
        self.valid = padding == "valid"

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Enlarge `x`, join it with `skip`, convolve."""
        x = self.upsample(x)
        for axis in range(2, x.dim()):
            if self.valid:
                surplus = skip.shape[axis] - x.shape[axis]  # 64 - 56
                skip = skip.narrow(axis, surplus // 2, x.shape[axis])
            else:
                x = x.narrow(axis, 0, skip.shape[axis])
        return self.block(torch.cat([skip, x], dim=1))


class Trim(nn.Module):
    """Cut voxels off both ends of each axis.

    Args:
        margin: voxels at one end, per axis, >= 0.
    """

    def __init__(self, margin: Sequence[int]) -> None:
        super().__init__()
        self.margin = tuple(margin)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Cut `x`."""
        for axis, cut in enumerate(self.margin, 2):
            x = x.narrow(axis, cut, x.shape[axis] - 2 * cut)
        return x


def upsampling(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    stride: Sequence[int],
    mode: str = "deconv",
    padding: str = "same",
    norm: Layer | None = None,
) -> nn.Module:
    """Module that enlarges a map and changes its channels.

    (N, in_channels, *size) -> (N, out_channels, *(stride size)), less `extrapolated` voxels at both ends of each axis
    where the padding is "valid", since it promises that nothing is made up at the border.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: factor per axis.
        mode: "deconv", a transposed convolution as wide as the stride (the paper's "up-convolution"), or a 1x1
            convolution and interpolation: "nearest", "linear", "cubic" (2D only).
        padding: "same" or "valid".
        norm: what follows, as `norm_layer` takes it.
    """
    bias = norm is None
    end = [] if norm is None else [norm_layer(norm, spatial_dims, out_channels)]
    if mode == "deconv":
        layer = Conv[Conv.CONVTRANS, spatial_dims](in_channels, out_channels, tuple(stride), tuple(stride), bias=bias)
        return nn.Sequential(layer, *end) if end else layer
    enlarge = nn.Upsample(scale_factor=tuple(map(float, stride)), mode=INTERPOLATION[mode][spatial_dims])
    made_up = [extrapolated(mode, factor) if padding == "valid" else 0 for factor in stride]
    trim = [Trim(made_up)] if any(made_up) else []
    # The convolution goes first: it commutes with the interpolation, and the smaller map has a quarter of the voxels.
    return nn.Sequential(Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1, bias=bias), enlarge, *trim, *end)


def extrapolated(mode: str, stride: int) -> int:
    """Voxels at each end of an axis that an interpolation computes from neighbours outside the map.

    Voxel i of a map that was enlarged s times lies at (i + 1/2) / s - 1/2. Linear interpolation needs that to be >= 0
    and cubic >= 1, which the first s // 2 and 3 s // 2 voxels miss: 1 and 3 of them for s = 2.
    """
    reach = {"deconv": 0, "nearest": 0, "linear": 1, "cubic": 3}[mode]
    return reach * stride // 2 if stride > 1 else 0


def norm_layer(norm: Layer | None, spatial_dims: int, channels: int) -> nn.Module:
    """MONAI's normalisation of that name; a pair such as ("group", {"num_groups": 4}) sets its arguments.

    Where the arguments do not say otherwise, "instance" learns a scale and a shift, as "batch" and "group" do, and
    "group" makes 8 groups, or the greatest common divisor of 8 and the channels.
    """
    if norm is None:
        return nn.Identity()
    name, given = _name_and_arguments("norm", norm, Norm.names)
    defaults: dict[str, dict[str, Any]] = {"instance": {"affine": True}, "group": {"num_groups": math.gcd(8, channels)}}
    try:
        return get_norm_layer((name, {**defaults.get(name, {}), **given}), spatial_dims, channels)
    except (TypeError, ValueError) as error:
        raise InputError(f"norm={norm!r} does not fit {channels} channels: {error}") from error


def activation_layer(activation: Layer) -> nn.Module:
    """MONAI's activation of that name; a pair such as ("leakyrelu", {"negative_slope": 0.1}) sets its arguments."""
    layer = _name_and_arguments("activation", activation, Act.names)
    try:
        return get_act_layer(layer)
    except TypeError as error:
        raise InputError(f"activation={activation!r} has wrong arguments: {error}") from error


def he_initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution from N(0, sqrt(2 / N)), N the incoming connections of a neuron; zero the bias.

    He et al. 2015 (https://arxiv.org/abs/1502.01852), as section 3 of the U-Net paper has it.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        incoming = module.in_channels // module.groups * math.prod(module.kernel_size)  # 64 channels, 3x3: 576
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # The kernel is as wide as the stride, so its copies do not overlap: a voxel of the output receives one voxel of
        # the input, once per channel. 1024 to 512 channels, 2x2: N = 1024 (PyTorch's fan_in would be 512 * 4).
        incoming = module.in_channels
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def check_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise an `InputError` if the value is none of the choices, and name the nearest one."""
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(map(repr, choices))}"
        raise InputError(f"{argument}={value!r} is unknown", remedy=remedy)


def _convolution(
    spatial_dims: int, in_channels: int, out_channels: int, kernel: Sequence[int], *, padding: str, bias: bool
) -> nn.Module:
    border = tuple(width // 2 if padding == "same" else 0 for width in kernel)
    return Conv[Conv.CONV, spatial_dims](in_channels, out_channels, tuple(kernel), padding=border, bias=bias)


def _name_and_arguments(argument: str, layer: Layer, names: Iterable[str]) -> tuple[str, dict[str, Any]]:
    try:
        name, given = split_args(layer)
    except (TypeError, ValueError) as error:
        remedy = "give a name, or a pair of a name and a mapping of its arguments"
        raise InputError(f"{argument}={layer!r} is no layer", remedy=remedy) from error
    name = str(name).lower()
    check_choice(argument, name, [known.lower() for known in names])
    return name, given
