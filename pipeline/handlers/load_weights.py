"""Weights into a network before it is used."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from pipeline.errors import InputError


class LoadWeights:
    """Load a bundle's weights when the engine starts: also where a program calls `evaluator.run()` and nothing before.

    Args:
        file: the bundle's `models/model.pt`, a plain state dict.
        network: the network itself, not a wrapper of it.
    """

    def __init__(self, file: str | Path, network: nn.Module) -> None:
        self.file, self.network = Path(file), network

    def attach(self, engine: Workflow) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda: load_weights(self.file, self.network))


def load_weights(file: str | Path, network: nn.Module) -> nn.Module:
    """Load weights into a network and return it; only tensors are read, never code.

    Args:
        file: a state dict saved by torch.
        network: the network that the weights were trained in.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(
            "there are no trained weights", file=file, remedy="train first, and give --bundle_root the run's folder"
        )
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damage comes to, and torch's own advice would be to run the file's code
        reason = "the file cannot be read as weights: it is damaged, or holds more than tensors"
        raise InputError(reason, file=file, remedy="fetch the file again, or train again") from error
    try:
        network.load_state_dict(weights)
    except Exception as error:
        reason = f"the weights do not fit the network: {misfit(error)}"
        remedy = "use the config that the weights were trained with: the one in the run's own folder"
        raise InputError(reason, file=file, remedy=remedy) from error
    return network


def misfit(error: Exception) -> str:
    """Return what torch says of a state that does not fit: its first line is a title, the next names a tensor."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
