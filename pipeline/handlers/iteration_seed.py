"""Randomness of the network as a function of the seed and the iteration."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow

from pipeline import ranks


class IterationSeed:
    """Seed torch before every iteration, so that dropout of a resumed run equals that of an uninterrupted one.

    Once an epoch would not do: how many numbers a data loader draws from torch's generator depends on its workers.
    Each rank has numbers of its own, the first one those of a single process.

    Args:
        seed: any non-negative integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _seed(self, engine: Workflow) -> None:
        # Mixed, because torch's generator on the CPU looks at the low 32 bits of a seed only.
        own = [ranks.rank()] if ranks.rank() else []
        mixed = np.random.SeedSequence([self.seed, engine.state.iteration, *own]).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0]))
