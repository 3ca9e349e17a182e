"""Whether compiling a network pays for itself in the length of a training."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks.blocks import check_choice

CHOICES = ("auto", "true", "false")
# Operations of a training from which compiling is worth its time. On two cores it takes 40 s and saves a third of a
# bfloat16 step, 0.5 s per 1e12 operations: even at 8e13, and twice that is sure. A GPU does a hundred times as many.
WORTHWHILE = {"cpu": 1.6e14, "cuda": 1.6e16}


def is_worthwhile(
    choice: str | bool, network: nn.Module, shape: Sequence[int], iterations: int, device: torch.device | str
) -> bool:
    """Whether to compile a network for its training; the same settings always give the same answer.

    Args:
        choice: true, false, or "auto": where there is a C++ compiler and the training is long enough.
        network: what is trained.
        shape: of a batch, (N, C, *size).
        iterations: of the whole training, resumed or not.
        device: where it runs.
    """
    choice = str(choice).lower()
    check_choice("compile", choice, CHOICES)
    if choice != "auto":
        return choice == "true"
    worthwhile = WORTHWHILE.get(torch.device(device).type)
    if worthwhile is None or min(shape) < 1 or not has_compiler():  # a crop of -1 is as large as its image
        return False
    return operations(network, shape) * iterations >= worthwhile


def operations(network: nn.Module, shape: Sequence[int]) -> float:
    """Floating-point operations of one forward and backward pass, counted without computing anything.

    The backward pass takes two operations for each one of the forward pass: one for the gradient of the input, one for
    that of the weights.
    """
    network = copy.deepcopy(network).to("meta").train()
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eval()  # one over several processes would ask the others
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(*shape, device="meta"))
    return 3.0 * counter.get_total_flops()


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` calls."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++", "cl"))))
