"""A loss whose mean over the ranks is that over the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class OverRanks(nn.Module):
    """Weight a rank's loss by its samples: `loss * samples * ranks / samples of all ranks`.

    The mean over the ranks, which DistributedDataParallel takes of the gradients, is then that over all samples, also
    where the last batch of an epoch leaves one rank more of them than another: 2 and 1 give 4/3 and 2/3.

    Args:
        loss: (output, targets) -> a number that is a mean over samples.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Any, targets: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the loss, all of it where there is no other."""
        if not dist.is_initialized():
            return self.loss(output, targets)
        samples = torch.tensor(float(len(targets)), device=targets.device)
        total = samples.clone()
        dist.all_reduce(total)
        return self.loss(output, targets) * (samples * dist.get_world_size() / total)
