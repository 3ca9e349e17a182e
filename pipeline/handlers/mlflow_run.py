"""Training as an MLflow run."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ignite.engine import Events
from monai.engines.trainer import SupervisedTrainer
from monai.engines.workflow import Workflow

from pipeline import provenance
from pipeline.bundle import flatten
from pipeline.handlers.checkpoints import best_of
from pipeline.run_folder import RunFolder, read_facts
from pipeline.tracking import Tracking

logger = logging.getLogger(__name__)


class MLflowRun:
    """Follow a trainer from start to end: params, tags, loss per iteration, scores per epoch, and how it ended.

    A crash ends the run as FAILED, a SIGTERM or Ctrl-C as KILLED; a resumed training continues its own run.

    Args:
        tracking: the run to feed.
        run: the run's folder, which gives its name and remembers its MLflow id.
        config: the merged config; its leaves become the params.
        evaluator: the validation engine.
        data_list: the list of cases; its digest becomes a tag.
        tags: more tags, such as the bundle's name and version.
    """

    def __init__(
        self,
        tracking: Tracking,
        run: RunFolder,
        config: Mapping[str, Any],
        evaluator: Workflow,
        data_list: str | Path | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        self.tracking, self.run, self.config, self.evaluator = tracking, run, config, evaluator
        self.data_list, self.tags = data_list, dict(tags or {})

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands last but for the progress bar, so that what others add is in before the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._crash)

    def _start(self, engine: Workflow) -> None:
        if engine.state.rank != 0:
            return
        self._terminated = False
        if threading.current_thread() is threading.main_thread():
            self._earlier_handler = signal.signal(signal.SIGTERM, self._terminate)
        tags = {**provenance.tags(), **{key: str(value) for key, value in self.tags.items()}}
        tags |= {"run_folder": str(self.run.path), "device": str(engine.state.device)}
        if self.data_list is not None:
            tags |= {"data_list": str(self.data_list), "data_list.digest": provenance.digest(self.data_list)}
        params = {key: value for key, value in flatten(self.config).items() if value is not None}
        known = read_facts(self.run.path) if self.run.resume else {}
        run_id = known.get("mlflow_run_id") if known.get("mlflow_uri") == self.tracking.uri else None
        run_id = self.tracking.start(self.run.path.name, tags, run_id, params)
        for row in getattr(engine.state, "history", []):  # what a kill left unwritten; known steps are dropped
            self._track(row)
        if run_id is not None:  # else a resumed run would forget the one that it began as
            self.run.remember(
                mlflow_run_id=run_id, mlflow_uri=self.tracking.uri, mlflow_experiment=self.tracking.experiment
            )

    def _iteration(self, engine: SupervisedTrainer) -> None:
        loss, rate = engine.state.output["loss"].item(), engine.optimizer.param_groups[0]["lr"]
        values = {"train/iteration_loss": loss, "train/iteration_learning_rate": float(rate)}
        self.tracking.metrics(values, engine.state.iteration)

    def _epoch(self, engine: Workflow) -> None:
        self._track(engine.state.history[-1])

    def _track(self, row: Mapping[str, Any]) -> None:
        self.tracking.metrics({key: value for key, value in row.items() if key != "epoch"}, row["epoch"])

    def _complete(self, engine: Workflow) -> None:
        self.tracking.metrics(best_of(self.evaluator), engine.state.epoch)
        self._end("FINISHED")

    def _crash(self, engine: Workflow, error: BaseException) -> None:
        # Engines swallow what an EXCEPTION_RAISED handler does not raise again.
        killed = self.__dict__.get("_terminated") or isinstance(error, KeyboardInterrupt)
        self.tracking.tag(error=f"{type(error).__name__}: {error}"[:5000])
        self._end("KILLED" if killed else "FAILED")
        raise error

    def _end(self, status: str) -> None:
        self.tracking.end(status)
        self.run.release()
        if "_earlier_handler" in self.__dict__:
            signal.signal(signal.SIGTERM, self._earlier_handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        raise SystemExit(128 + number)
