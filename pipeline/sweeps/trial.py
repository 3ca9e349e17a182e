"""One trial of a sweep: its trainings, its MLflow runs, its value."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from pipeline import settings
from pipeline.errors import InputError, did_you_mean, raise_all
from pipeline.handlers.case_scores import NO_SCORES, mean_scores
from pipeline.handlers.evaluation_report import summary, table
from pipeline.handlers.mlflow_run import MLflowRun, origin, params
from pipeline.handlers.progress_bar import ProgressBar
from pipeline.journal import NAME
from pipeline.mlflow_store import PARENT
from pipeline.run_folder import read_facts
from pipeline.sweeps.config_check import training
from pipeline.sweeps.pruning import Pruning
from pipeline.sweeps.study import trial_name
from pipeline.sweeps.sweep_file import Sweep
from pipeline.tracking import Tracking
from pipeline.volumes.atomic import atomic_write_text, write_json

TABLES = Path("evaluation", "validation")


class Parent(NamedTuple):
    """The sweep's own MLflow run, which those of its trials stand beneath; its key is known without any server."""

    uri: str
    experiment: str
    key: str


class SweepTrial:
    """Train a trial, fold by fold, and return its value.

    With one fold the training's MLflow run is the trial's. With several the trial has a run of its own above theirs,
    which has the table of all their cases. A trial is pruned in its first fold or not at all. What an earlier attempt
    completed is not trained again, and what it began goes on from its checkpoint.

    Args:
        sweep: what the trial is of.
        trial: of Optuna, with its number among the sweep's.
        parent: the sweep's MLflow run.
        bars: whether trainings show how far they are, which several at once cannot.
    """

    def __init__(self, sweep: Sweep, trial: optuna.Trial, parent: Parent, bars: bool = True) -> None:
        self.sweep, self.trial, self.parent, self.bars = sweep, trial, parent, bars
        self.name = trial_name(sweep, trial.user_attrs["number"])
        self.folder = sweep.folder / self.name
        self.key = f"{parent.key}-{trial.user_attrs['number']}"
        self.has_folds = len(sweep.folds) > 1
        self.tags = {"sweep": sweep.name, "sweep.trial": str(trial.user_attrs["number"])}
        self.tags |= {"sweep.params": json.dumps(trial.params)}
        self.tracking: Tracking | None = None  # of the trial's own run

    def train(self) -> float:
        """Return the metric over all validation cases of all folds; raise TrialPruned, or what went wrong."""
        runs: list[Path] = []
        for fold in self.sweep.folds or (None,):
            run = self.sweep.folder / (f"{self.name}-fold-{fold}" if self.has_folds else self.name)
            if self.has_folds and self.tracking is None:
                self._open_above_folds()
            if "completed_epoch" not in read_facts(run):
                self._train(run, fold, is_first=not runs)
            runs.append(run)
            if pruned := read_facts(run).get("pruned"):
                if self.tracking is not None:
                    self.tracking.tag(pruned=str(pruned))
                raise optuna.TrialPruned
        return self._value(runs)

    def end(self, status: str, error: str | None = None) -> str | None:
        """Close the trial's own MLflow run, if it has one; return the id of the run that stands for the trial."""
        known = read_facts(self.folder).get("mlflow_run_id")
        is_tracked = known is not None or (self.folder / NAME).is_file()
        if self.tracking is None and error is not None and not is_tracked:
            self._open(self.trial.params, {})  # it failed before its training had a run
        if self.tracking is None:
            return known
        if error is not None:
            self.tracking.tag(error=error[:5000])
        self.tracking.end(status)
        return self.tracking.run_id

    def _train(self, run: Path, fold: int | None, is_first: bool) -> None:
        given: dict[str, Any] = {
            "output_dir": str(run.parent),
            "run_name": run.name,
            "resume": bool(read_facts(run)),  # be it killed before its first checkpoint: its MLflow run goes on
        }
        given |= {} if fold is None else {"fold": fold}
        workflow = training(self.sweep, self.trial.params, **given)
        raise_all(workflow.lost, "Settings that have no place beside these overlays")
        workflow.initialize()
        parsed = workflow.parsed
        self._prepare(parsed("train#handlers"), fold, run.name)
        if is_first:  # last of all, for it reads what History has noted, and ends what Checkpoints has saved
            pruning = Pruning(self.trial, self.sweep.metric, parsed("run_folder"), parsed("mlflow"))
            parsed("train#handlers").append(pruning)
        workflow.run()
        workflow.finalize()

    def _prepare(self, handlers: list[Any], fold: int | None, name: str) -> None:
        """Let the handlers of a training, whose trainer is made later, know that it belongs to a sweep."""
        for handler in list(handlers):
            if isinstance(handler, MLflowRun):
                handler.tags |= self._tags_of(fold)
                handler.config = {**handler.config, **self._overlays()}
            elif isinstance(handler, ProgressBar):
                handler.description = name
                if not self.bars:
                    handlers.remove(handler)

    def _tags_of(self, fold: int | None) -> dict[str, str]:
        """Return the tags of a training: those of the trial, or of a fold beneath the trial's run."""
        if not self.has_folds:
            return self._own_tags()
        return {**self.tags, "sweep.role": "fold", "sweep.fold": str(fold), PARENT: self.key}

    def _own_tags(self) -> dict[str, str]:
        return {**self.tags, "sweep.role": "trial", PARENT: self.parent.key}

    def _overlays(self) -> dict[str, Any]:
        """Return what varies and is no setting, to be a param all the same."""
        return {axis.key: self.trial.params[axis.key] for axis in self.sweep.space if axis.is_overlay}

    def _open_above_folds(self) -> None:
        workflow = training(self.sweep, self.trial.params)
        workflow.parser.parse(reset=True)
        config = {
            key: value for key, value in settings.of(workflow.parser).items() if key not in ("fold", "output_dir")
        }
        tags = origin(workflow.parsed("device"), workflow.parsed("data_list"), {})
        self._open({**params(config), **self._overlays()}, tags)

    def _open(self, entries: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open a run for the trial itself, or the one again that an earlier attempt has opened."""
        self.folder.mkdir(exist_ok=True)
        self.tracking = Tracking(self.parent.uri, self.parent.experiment, system_metrics_every=0)
        own = {**tags, **self._own_tags()}
        self.tracking.start(self.name, own, params=entries, folder=self.folder, resume=True, key=self.key)

    def _value(self, runs: Iterable[Path]) -> float:
        """Return the metric; a trial with folds keeps the scores of all cases in a folder of its own."""
        folders = [run / TABLES for run in runs]
        rows = [row for folder in folders for row in read_cases(folder / "cases.csv")]
        stacks = [json.loads((folder / "scores.json").read_text()).get("stack", {}) for folder in folders]
        scores = {name: value for name, value in mean_scores(rows).items() if not math.isnan(value)}
        scores |= {
            name: float(np.mean([stack[name] for stack in stacks])) for name in stacks[0] if _is_known(stacks, name)
        }
        column = self.sweep.metric.removeprefix("val/")
        if column not in scores:
            reason = f"no validation case has a score '{self.sweep.metric}'"
            raise InputError(reason, remedy=did_you_mean(self.sweep.metric, [f"val/{name}" for name in scores]))
        if self.tracking is not None:
            means = {f"val/{name}": value for name, value in scores.items()}
            best = {f"best/{name}": scores[name] for name in ("mean_dice", column) if name in scores}
            self._track(self.tracking, rows, means | best)
        return float(scores[column])

    def _track(self, tracking: Tracking, rows: list[dict[str, Any]], metrics: Mapping[str, float]) -> None:
        """Keep the scores of all folds with the trial, as a run without folds keeps its own."""
        folder = self.folder / TABLES
        atomic_write_text(folder / "cases.csv", table(rows))
        write_json(folder / "scores.json", {"split": "validation", **summary(rows)})
        tracking.metrics(metrics, 0)
        for file in ("cases.csv", "scores.json"):
            tracking.artifact(folder / file, str(TABLES))


def read_cases(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's `cases.csv`; an empty field is nan."""
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        {key: value if key in NO_SCORES else float(value or math.nan) for key, value in row.items()} for row in rows
    ]


def _is_known(stacks: Iterable[Mapping[str, Any]], name: str) -> bool:
    return all(stack.get(name) is not None for stack in stacks)
