"""A training that begins with another's weights."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from pipeline.errors import InputError
from pipeline.handlers.load_weights import read_tensors, weights_file
from pipeline.run_folder import RunFolder

logger = logging.getLogger(__name__)


class StartFrom:
    """Load the weights that a training begins with; stands before `Checkpoints`, whose state counts more on resume.

    Args:
        file: the `models/model.pt` of a bundle; None: the network begins as it was made.
        network: the network itself, not a wrapper of it.
        run: one that goes on from its own checkpoint needs no other weights.
    """

    def __init__(self, file: str | Path | None, network: nn.Module, run: RunFolder) -> None:
        self.file, self.network, self.run = file, network, run

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self) -> None:
        if self.file is not None and not (self.run.resume and self.run.last_checkpoint.exists()):
            start_from(self.file, self.network)


def start_from(file: str | Path, network: nn.Module) -> list[str]:
    """Load the tensors that fit into a network, and return the names of those that begin anew.

    The layer of the classes does not fit where there are others; of a network with other channels nothing does.

    Args:
        file: a state dict saved by torch or safetensors.
        network: to begin with.
    """
    file, own = weights_file(file), network.state_dict()
    if not file.is_file():
        raise InputError("start_from names no file", file=file, remedy="give the models/model.pt of a bundle or a run")
    given = read_tensors(file)
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    learnt = [name for name, _ in network.named_parameters()]
    if not any(name in fitting and own[name].ndim > 1 for name in learnt):
        reason = "no layer of these weights fits the network"
        raise InputError(reason, file=file, remedy="use the config that they were trained with, or no start_from")
    network.load_state_dict(fitting, strict=False)
    anew = [name for name in learnt if name not in fitting]
    logger.info("start_from: %d of %d tensors from '%s'", len(learnt) - len(anew), len(learnt), file)
    if anew:
        logger.warning("start_from: these do not fit and begin anew: %s", ", ".join(anew))
    return anew
