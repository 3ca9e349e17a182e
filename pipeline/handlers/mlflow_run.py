"""Training as an MLflow run."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines.trainer import SupervisedTrainer
from monai.engines.workflow import Workflow

from pipeline import provenance, ranks
from pipeline.bundle import flatten
from pipeline.handlers.checkpoints import best_of
from pipeline.run_folder import RunFolder, read_facts
from pipeline.stop_signals import hear_no_more, stopped_by_signals, told_to_stop
from pipeline.tracking import Tracking
from pipeline.volumes.contents import data_digest

logger = logging.getLogger(__name__)


class MLflowRun:
    """Follow a trainer from start to end: params, tags, loss per iteration, scores per epoch, and how it ended.

    A crash ends the run as FAILED; SIGTERM, SIGHUP or Ctrl-C as KILLED. A resumed training continues its own run. What
    the store lacks waits in the run's folder, which remembers that the training is complete.

    Args:
        tracking: the run to feed.
        run: the run's folder, which gives its name and remembers its MLflow id.
        config: the merged config; its leaves become the params.
        evaluator: the validation engine.
        data_list: the list of cases; its digest becomes a tag, and so does that of the data.
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
        self._signals = ExitStack()
        self._known_id: str | None = None

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
        self._signals.enter_context(stopped_by_signals())
        records = [*records_of(engine), *records_of(self.evaluator)]
        tags = origin(engine.state.device, self.data_list, {**self.tags, "run_folder": self.run.path}, records)
        known = read_facts(self.run.path) if self.run.resume else {}
        run_id = known.get("mlflow_run_id") if known.get("mlflow_uri") == self.tracking.uri else None
        name, resume = self.run.path.name, self.run.resume
        self.tracking.start(name, tags, run_id, params(self.config), folder=self.run.path, resume=resume)
        for row in getattr(engine.state, "history", []):  # another store lacks them; known steps are dropped
            self._track(row)
        self._remember_id()

    def _remember_id(self) -> None:
        """Note the run's id once a store has opened it, which a server may do at any time."""
        if self.tracking.run_id in (None, self._known_id):  # else a resumed run would forget the one that it began as
            return
        self._known_id = self.tracking.run_id
        self.run.remember(
            mlflow_run_id=self._known_id, mlflow_uri=self.tracking.uri, mlflow_experiment=self.tracking.experiment
        )

    def _iteration(self, engine: SupervisedTrainer) -> None:
        loss, rate = engine.state.output["loss"].item(), engine.optimizer.param_groups[0]["lr"]
        values = {"train/iteration_loss": loss, "train/iteration_learning_rate": float(rate)}
        self.tracking.metrics(values, engine.state.iteration)
        if engine.state.iteration % engine.state.epoch_length == 0:  # a checkpoint may follow
            self.tracking.flush()

    def _epoch(self, engine: Workflow) -> None:
        self._track(engine.state.history[-1])
        self._remember_id()

    def _track(self, row: Mapping[str, Any]) -> None:
        self.tracking.metrics({key: value for key, value in row.items() if key != "epoch"}, row["epoch"])

    def _complete(self, engine: Workflow) -> None:
        self.tracking.metrics(best_of(self.evaluator), engine.state.epoch)
        self._end(engine, "FINISHED")

    def _crash(self, engine: Workflow, error: BaseException) -> None:
        # Engines swallow what an EXCEPTION_RAISED handler does not raise again.
        told = signal.SIGINT if isinstance(error, KeyboardInterrupt) else told_to_stop()
        lost = None if told == signal.SIGINT else ranks.lost(error, f"--resume true --run_name {self.run.path.name}")
        if lost is not None:  # torchrun stops this rank too, any moment now
            hear_no_more()
            error = lost
            if ranks.says(lost):
                logger.error("%s", lost)
        stopped_by = None if lost else "the user" if told == signal.SIGINT else told.name if told else None
        if stopped_by and engine.state.rank == 0:
            logger.warning("stopped by %s; continue with --resume true --run_name %s", stopped_by, self.run.path.name)
        self.tracking.tag(error=f"{type(error).__name__}: {error}"[:5000])
        self._end(engine, "KILLED" if stopped_by else "FAILED")
        raise error

    def _end(self, engine: Workflow, status: str) -> None:
        was_tracked = self.tracking.is_on
        is_kept = self.tracking.end(status)
        if was_tracked:
            self._remember_id()
        if is_kept and status == "FINISHED" and engine.state.rank == 0:
            self.run.remember(completed_epoch=engine.state.epoch)
        self.run.release()
        self._signals.close()


def params(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a run: the leaves of its config, but for those that only say which run to continue."""
    return {
        key: value for key, value in flatten(config).items() if value is not None and key not in ("run_name", "resume")
    }


def origin(
    device: Any, data_list: str | Path | None, tags: Mapping[str, Any], records: Iterable[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return a run's tags: code, machine, device and data that a result comes from, and what else is given.

    Of the cases in `records`, in whatever order, `data.digest` is the content: the list's digest is of its words alone.
    """
    found = {**provenance.tags(), **tags, "device": device}
    if data_list is not None:
        found |= {"data_list": data_list, "data_list.digest": provenance.digest(data_list)}
    if (content := data_digest(records)) is not None:
        found["data.digest"] = content
    return {key: str(value) for key, value in found.items()}


def records_of(engine: Workflow) -> list[Mapping[str, Any]]:
    """Return the records that an engine's cases are loaded from; none where its loader has no data set with `data`."""
    return list(getattr(getattr(engine.data_loader, "dataset", None), "data", ()))
