"""Weights into a network before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_write_bytes

SAFE = ".safetensors"  # names and numbers, and no room for anything else


class LoadWeights:
    """Load a bundle's weights when the engine starts: also where a program calls `evaluator.run()` and nothing before.

    Args:
        file: the bundle's `models/model.pt`, a plain state dict; `model.safetensors` does as well.
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
        file: a state dict saved by torch or safetensors: see `weights_file`.
        network: the network that the weights were trained in.
    """
    file = weights_file(file)
    weights = read_tensors(file)
    try:
        network.load_state_dict(weights)
    except Exception as error:
        reason = f"the weights do not fit the network: {misfit(error)}"
        remedy = "use the config that the weights were trained with: the one in the run's own folder"
        raise InputError(reason, file=file, remedy=remedy) from error
    return network


def weights_file(file: str | Path) -> Path:
    """Return the file itself, or where a bundle has no `model.pt`, the `model.safetensors` in its place."""
    other = Path(file).with_suffix(SAFE)
    return other if other.is_file() and not Path(file).is_file() else Path(file)


def to_safetensors(bundle: str | Path) -> Path:
    """Write the weights of a bundle as `models/model.safetensors` too, for those who take no pickle; return its path.

    Args:
        bundle: a run's folder, or another bundle with `models/model.pt`.
    """
    from safetensors.torch import save

    file = Path(bundle) / "models" / "model.pt"
    # The format has no tensors that share memory, and none in an order of their own such as channels last.
    weights = {name: tensor.contiguous().clone() for name, tensor in read_tensors(file).items()}
    atomic_write_bytes(file.with_suffix(SAFE), save(weights))
    return file.with_suffix(SAFE)


def read_tensors(file: Path, device: torch.device | str = "cpu", what: str = "weights") -> Any:
    """Return what torch or safetensors saved: tensors, and texts and numbers about them, but never code.

    Args:
        file: ends with `.safetensors`, or is torch's own.
        device: where the tensors go.
        what: the file should hold, for the message.
    """
    if not file.is_file():
        remedy = "train first, and give --bundle_root the run's folder"
        raise InputError("there are no trained weights", file=file, remedy=remedy)
    try:
        if file.suffix != SAFE:
            return torch.load(file, map_location=device, weights_only=True)
        from safetensors.torch import load_file

        return load_file(file, str(device))
    except PermissionError as error:
        reason = f"the file cannot be opened ({error.strerror})"
        raise InputError(reason, file=file, remedy="correct its permissions") from error
    except Exception as error:  # whatever damage comes to, and torch's own advice would be to run the file's code
        reason = f"the file cannot be read as {what}: it is damaged, or holds more than tensors"
        raise InputError(reason, file=file, remedy="fetch the file again, or train again") from error


def misfit(error: Exception) -> str:
    """Return what torch says of a state that does not fit: its first line is a title, the next names a tensor."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
