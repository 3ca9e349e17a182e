"""An end to training that has stopped getting better."""

from __future__ import annotations

import logging

from ignite.engine import Events
from monai.engines.workflow import Workflow

from pipeline.handlers.history import validated

logger = logging.getLogger(__name__)


class EarlyStop:
    """Stop when the best validation is `patience` epochs ago.

    It keeps no count of its own: the best epoch is known to the evaluator, and restored with it on resume.

    Args:
        evaluator: the validation engine.
        patience: epochs without a new best; None never stops.
    """

    def __init__(self, evaluator: Workflow, patience: int | None = None) -> None:
        self.evaluator, self.patience = evaluator, patience

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after the ValidationHandler in the list."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Workflow) -> None:
        best = self.evaluator.state.best_metric_epoch
        if self.patience is None or best < 0 or not validated(engine, self.evaluator):
            return
        if engine.state.epoch - best >= self.patience:
            logger.info("no better validation since epoch %d: training stops at epoch %d", best, engine.state.epoch)
            engine.terminate()
