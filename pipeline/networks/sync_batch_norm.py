"""Batch norm over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of all ranks' samples, on CPUs; PyTorch's own runs on GPUs alone.

    (N, C, *size) -> the same; ranks may have differing N. Weights and statistics have the names of `nn.BatchNorm2d`.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Take any number of axes, as `nn.SyncBatchNorm` does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise `input`."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        return self._over_ranks(input)

    def _over_ranks(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            count, average, variance = _statistics(wide)
            if self.track_running_stats:
                self._track(average.detach(), (variance * count / (count - 1)).detach())
            scale = torch.rsqrt(variance + self.eps)
            shift = -average * scale
            if self.affine:
                scale, shift = scale * self.weight, shift * self.weight + self.bias
            shape = [1, -1, *[1] * (x.dim() - 2)]
            return (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _track(self, average: torch.Tensor, unbiased: torch.Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for kept, new in ((self.running_mean, average), (self.running_var, unbiased)):
            assert kept is not None
            kept.lerp_(new, rate)


def synchronised(
    network: nn.Module,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> nn.Module:
    """Return the network itself, each batch norm in it replaced by one over all ranks; its weights keep their names.

    Args:
        network: which is changed.
        device: where to move it.
        memory_format: the layout of its weights, such as `torch.channels_last`.
    """
    if device is not None and torch.device(device).type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        _replace(network)
    return network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]


def _replace(network: nn.Module) -> None:
    for name, part in list(network.named_children()):
        if isinstance(part, PLAIN):
            setattr(network, name, _synchronised(part))
        else:
            _replace(part)


def _synchronised(plain: Any) -> SyncBatchNorm:
    made = SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
    for name, value in (*plain._parameters.items(), *plain._buffers.items()):
        setattr(made, name, value)
    return made.train(plain.training)


@torch.compiler.disable
def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return how many values a channel has in all ranks, and their mean and variance (C each)."""
    axes = [0, *range(2, x.dim())]
    variance, average = torch.var_mean(x, axes, correction=0)
    count = torch.full_like(average, x.numel() / x.shape[1])
    table = torch.zeros(dist.get_world_size(), 3, x.shape[1], dtype=x.dtype, device=x.device)
    own = torch.stack([count, average, variance])
    counts, averages, variances = _Sum.apply(table.index_add(0, torch.tensor([dist.get_rank()]), own[None])).unbind(1)
    weights = counts / counts.sum(0)
    whole = (weights * averages).sum(0)
    return counts.sum(0), whole, (weights * (variances + (averages - whole) ** 2)).sum(0)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; every rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
