"""An early end to trials that are not worth more."""

from __future__ import annotations

import optuna
from ignite.engine import Events
from monai.engines.workflow import Workflow

from pipeline.run_folder import RunFolder
from pipeline.tracking import Tracking


class Pruning:
    """Tell Optuna each validation of a training, and end the training when the trial is not worth more.

    Such a run ends as one that is complete: its best weights, scores and bundle are there. It has the tag `pruned`, the
    epoch, which its folder remembers as well.

    Args:
        trial: of Optuna.
        metric: a row of the history, "val/mean_dice".
        run: the run's folder.
        tracking: its MLflow run.
    """

    def __init__(self, trial: optuna.Trial, metric: str, run: RunFolder, tracking: Tracking) -> None:
        self.trial, self.metric, self.run, self.tracking = trial, metric, run, tracking
        self._reported = 0

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer that has all its other handlers: History comes before, and a checkpoint is restored."""
        engine.add_event_handler(Events.STARTED, self._look)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _look(self, engine: Workflow) -> None:
        rows = [row for row in engine.state.history if row["epoch"] > self._reported and self.metric in row]
        for row in rows:
            self._reported = row["epoch"]
            self.trial.report(float(row[self.metric]), self._reported)
        if rows and engine.state.epoch < engine.state.max_epochs and self.trial.should_prune():
            self.run.remember(pruned=self._reported)
            self.tracking.tag(pruned=str(self._reported))
            engine.terminate()
