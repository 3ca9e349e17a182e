"""Randomness of the network as a function of the seed and the iteration."""

from __future__ import annotations

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow


class IterationSeed:
    """Seed torch before every iteration, so that dropout of a resumed run equals that of an uninterrupted one.

    Once an epoch would not do: how many numbers a data loader draws from torch's generator depends on its workers.

    Args:
        seed: any non-negative integer below 2^31.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _seed(self, engine: Workflow) -> None:
        torch.manual_seed(self.seed * 2**32 + engine.state.iteration)
