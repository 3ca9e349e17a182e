"""Running a network in the number format that suits the processor."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from pipeline.networks.blocks import check_choice

logger = logging.getLogger(__name__)

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
PRECISIONS = ("auto", "float32", "bfloat16")


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 in hardware, rather than emulate it in float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))


def number_format(precision: str, device: torch.device | str) -> torch.dtype:
    """The format that a network trains in: bfloat16 or float32, and float16 on a GPU that has no bfloat16.

    Args:
        precision: "float32", "bfloat16", or "auto": the narrowest that the device has a unit for.
        device: where the network is.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def channels_last(spatial_dims: int) -> torch.memory_format:
    """The layout in which the channels of a voxel are neighbours in memory, for 2 or 3 spatial axes."""
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d


def fast_layout(network: nn.Module) -> torch.memory_format | None:
    """The layout in which the processor runs a network fastest: channels last, or None for that which it has.

    In 3D, a norm over the space of each image wants that to lie together: channels last takes 1.2 times as long there,
    and 0.7 times with a batch norm.
    """
    axes = {parameter.dim() - 2 for parameter in network.parameters()} & {2, 3}
    over_space = any(isinstance(module, nn.InstanceNorm3d | nn.GroupNorm) for module in network.modules())
    return None if len(axes) != 1 or (axes == {3} and over_space) else channels_last(axes.pop())


class Around(nn.Module):
    """Run a network, `network`, in a way of its own; what is no part of this module is looked up in the network."""

    def __getattr__(self, name: str) -> Any:
        """An attribute of this module, else of the network."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not set yet
                raise
            return getattr(self.network, name)


class Autocast(Around):
    """Run a network in another number format and memory layout; images stay float32, and logits if not asked otherwise.

    The weights stay float32 too, and so does what PyTorch's autocast keeps from the narrower format.

    Args:
        network: (N, C, *size) -> logits, or a list of them.
        dtype: that of the convolutions; `torch.float32` switches autocast off.
        memory_format: `torch.channels_last` in 2D, `torch.channels_last_3d` in 3D; None leaves the layout as it is.
        compiled: in training, compile for the shape of the first batch. Batches of another shape, such as the last and
            smaller one of an epoch, run as they are: compiling takes longer than they do.
        narrow_logits: leave the logits in `dtype`, for one who adds them up in float32: half the memory, equal sums.
    """

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype = torch.bfloat16,
        memory_format: torch.memory_format | None = None,
        compiled: bool = False,
        narrow_logits: bool = False,
    ) -> None:
        super().__init__()
        self.network = network if memory_format is None else network.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.dtype, self.memory_format, self.narrow_logits = dtype, memory_format, narrow_logits
        self._shape: torch.Size | None = None
        if compiled:
            torch._dynamo.reset()  # it counts what it compiled for other networks of this class, and stops at eight
            self._compiled = torch.compile(self._run, dynamic=False)
        self.compiled = compiled

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of the images `x`."""
        if not self.compiled or not self.training:
            return self._run(x)
        self._shape = self._shape or x.shape
        if x.shape != self._shape:
            return self._run(x)
        try:
            return self._compiled(x)
        except Exception as error:  # of the compiler; what is wrong with the network itself comes again below
            logger.warning("the network is not compiled: %s: %s", type(error).__name__, str(error)[:500])
            self.compiled = False
            return self._run(x)

    def _run(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if self.memory_format is not None:
            x = x.contiguous(memory_format=self.memory_format)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(x)
        if self.narrow_logits:
            return logits
        if isinstance(logits, list):
            return [level.float() for level in logits]
        return logits.float() if isinstance(logits, torch.Tensor) else logits  # what is neither, an inferer judges


class InFloat32(nn.Module):
    """Run a part of a network in float32 where the rest of it runs in a narrower format."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the part makes of `x`, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return self.part(x.float())


def for_prediction(network: nn.Module, dtype: torch.dtype) -> Autocast:
    """Return a trained network as it predicts in a number format, in its fastest layout.

    In bfloat16 the first convolution stays in float32: it would round the image to 8 bits, which costs most of the
    labels that change (0.15 % of an organ instead of 0.04 % in the 3D bundle), and it takes the least time.
    """
    if dtype != torch.float32:
        network = copy.deepcopy(network)
        first = next((name for name, part in network.named_modules() if isinstance(part, CONVOLUTIONS)), "")
        if first:
            parent, _, name = first.rpartition(".")
            setattr(network.get_submodule(parent), name, InFloat32(network.get_submodule(first)))
    return Autocast(network, dtype, fast_layout(network), narrow_logits=True).eval()
