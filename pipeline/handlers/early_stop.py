"""An end to training that has stopped getting better."""

from __future__ import annotations

import logging

from ignite.engine import Events
from monai.engines.workflow import Workflow

logger = logging.getLogger(__name__)


class EarlyStop:
    """Stop when the best validation is `patience` epochs ago.

    It keeps no count of its own: the best epoch is known to the evaluator, the epochs to the history, and both are
    restored on resume. A run that was killed after the epoch which stopped it trains no further one.

    Args:
        evaluator: the validation engine.
        patience: epochs without a new best; None never stops.
    """

    def __init__(self, evaluator: Workflow, patience: int | None = None) -> None:
        self.evaluator, self.patience = evaluator, patience

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after History and Checkpoints in the list."""
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Workflow) -> None:
        best = self.evaluator.state.best_metric_epoch
        if self.patience is None or best < 0 or not engine.state.history:
            return
        latest = engine.state.history[-1]
        was_validated = any(name.startswith("val/") for name in latest)
        if was_validated and latest["epoch"] - best >= self.patience:
            logger.info("no better validation since epoch %d: training stops at epoch %d", best, latest["epoch"])
            engine.terminate()
