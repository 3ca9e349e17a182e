"""What each epoch came to."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch.optim import Optimizer


class History:
    """Keep a row per epoch in `trainer.state.history`: mean loss, learning rate, validation scores, seconds.

    Names are those of the tracking store: `train/loss`, `val/mean_dice`, `val/dice/<class>`, `time/epoch`.

    Args:
        optimizer: whose learning rate is noted, as the epoch used it.
        evaluator: whose metrics are noted in the epochs that it ran in.
    """

    def __init__(self, optimizer: Optimizer, evaluator: Workflow) -> None:
        self.optimizer, self.evaluator = optimizer, evaluator

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after the ValidationHandler in the list."""
        engine.state.history = []
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._complete)

    def _start(self, engine: Workflow) -> None:
        self.total, self.count = 0.0, 0

    def _add(self, engine: Workflow) -> None:
        self.total += engine.state.output["loss"].item()
        self.count += 1
        self.rate = float(self.optimizer.param_groups[0]["lr"])

    def _complete(self, engine: Workflow) -> None:
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "train/loss": self.total / self.count,
            "train/learning_rate": self.rate,
            "time/epoch": float(engine.state.times["EPOCH_COMPLETED"]),
        }
        if validated(engine, self.evaluator):
            row |= {f"val/{name}": float(value) for name, value in self.evaluator.state.metrics.items()}
        engine.state.history.append(row)


def validated(trainer: Workflow, evaluator: Workflow) -> bool:
    """Return whether the evaluator ran in the trainer's present epoch (MONAI numbers its run by that epoch)."""
    return bool(evaluator.state.metrics) and evaluator.state.epoch == trainer.state.epoch
