"""One line that says how far training is and what it has come to."""

from __future__ import annotations

import math
import sys

from ignite.engine import Events
from monai.engines.workflow import Workflow
from tqdm import tqdm


class ProgressBar:
    """A bar over all iterations of a run with the last loss and validation score.

    Args:
        description: what stands in front of the bar.
        metric: the row of the history that is shown beside the loss.
    """

    def __init__(self, description: str = "train", metric: str = "val/mean_dice") -> None:
        self.description, self.metric = description, metric

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer or an evaluator; the latter has no history to show."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Workflow) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        done = engine.state.epoch * engine.state.epoch_length
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=self.description,
            unit="it",
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=engine.state.rank != 0,
            leave=False,  # of a run that fails, whose last words are others
        )

    def _advance(self, engine: Workflow) -> None:
        self.bar.update()

    def _epoch(self, engine: Workflow) -> None:
        history = getattr(engine.state, "history", [])
        if not history:
            return
        shown = {"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}", "loss": f"{history[-1]['train/loss']:.4f}"}
        scores = [row[self.metric] for row in history if self.metric in row]
        if scores:
            best = max((score for score in scores if not math.isnan(score)), default=math.nan)
            shown |= {self.metric: f"{scores[-1]:.4f}", "best": f"{best:.4f}"}
        self.bar.set_postfix(shown, refresh=False)

    def _close(self, engine: Workflow) -> None:
        self.bar.leave = True
        self.bar.close()
