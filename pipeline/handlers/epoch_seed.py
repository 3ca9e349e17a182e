"""Randomness of the network as a function of the seed and the epoch."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events


class EpochSeed:
    """Seed torch at the start of every epoch, so that dropout of a resumed run equals that of an uninterrupted one.

    Args:
        seed: any non-negative integer; epoch n uses `seed + n`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: torch.manual_seed(self.seed + engine.state.epoch))
