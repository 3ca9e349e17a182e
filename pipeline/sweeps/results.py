"""What a sweep has come to: a line for each trial, a table of all, the best and what mattered."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from pipeline.sweeps.study import Study, trial_name
from pipeline.volumes.atomic import atomic_write_text

BEST = 10  # trials that the table at the end shows
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def ranked(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the best first, of equal ones the earlier."""
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    sign = -1 if study.sweep.direction == "maximize" else 1
    return sorted(complete, key=lambda trial: (sign * _value(trial), trial.user_attrs["number"]))


def progress_line(study: Study, number: int, workers: int) -> str:
    """Return what a trial has come to: `4/20  trial 3  batch_size=2  0.8123  best 0.8342 (trial 1)  12 min left`."""
    trials = study.trials()
    trial = trials[number]
    done = sum(trial.state in DONE for trial in trials)
    words = [f"{done}/{study.sweep.total}", f"trial {number}", *_varied(study, trial.params), _outcome(trial)]
    if best := ranked(study)[:1]:
        words.append(f"best {_value(best[0]):.4f} (trial {best[0].user_attrs['number']})")
    words.append(_time_left(trials, study.sweep.total - done, workers))
    return "  ".join(words)


def _varied(study: Study, params: Mapping[str, Any]) -> list[str]:
    return [f"{axis.key}={_short(params[axis.key])}" for axis in study.sweep.space]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)


def _outcome(trial: FrozenTrial) -> str:
    same = f" as trial {trial.user_attrs['same_as']}" if "same_as" in trial.user_attrs else ""
    if trial.state == TrialState.COMPLETE:
        return f"{_value(trial):.4f}{same}"
    if trial.state == TrialState.PRUNED:
        return f"pruned at epoch {trial.last_step} ({_value(trial):.4f}){same}"
    return f"failed: {trial.user_attrs.get('reason', 'stopped')}{same}"


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value


def _time_left(trials: Sequence[FrozenTrial], todo: int, workers: int) -> str:
    """Guess by the mean of what was trained; `under a minute left`, `12 min left`, `3.5 h left`."""
    taken = [trial.user_attrs["seconds"] for trial in trials if "seconds" in trial.user_attrs]
    if not todo or not taken:
        return "done" if not todo else "time left unknown"
    minutes = math.ceil(todo / workers) * sum(taken) / len(taken) / 60
    return (
        "under a minute left"
        if minutes < 1
        else f"{minutes:.0f} min left"
        if minutes < 90
        else f"{minutes / 60:.1f} h left"
    )


def write_table(study: Study) -> Path:
    """Write `results.csv` with a row for each trial, and return it."""
    keys = [axis.key for axis in study.sweep.space]
    fields = [
        "trial",
        "state",
        study.sweep.metric,
        *keys,
        "epochs",
        "seconds",
        "same_as",
        "reason",
        "run",
        "mlflow_run_id",
    ]
    text = StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for trial in study.trials():
        known = trial.user_attrs
        varied = {key: "null" if value is None else value for key, value in trial.params.items()}
        row = {**varied, "trial": known["number"], "state": _state(trial), study.sweep.metric: trial.value}
        row |= {key: known.get(key) for key in ("seconds", "same_as", "reason", "mlflow_run_id")}
        shown = known.get("same_as", known["number"])
        writer.writerow({**row, "epochs": trial.last_step, "run": study.folder / trial_name(study.sweep, shown)})
    atomic_write_text(study.folder / "results.csv", text.getvalue())
    return study.folder / "results.csv"


def _state(trial: FrozenTrial) -> str:
    return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def counts(study: Study) -> dict[str, int]:
    """Return how many trials ended how: complete, pruned, failed."""
    states = [_state(trial) for trial in study.trials() if trial.state in DONE]
    return {state: states.count(state) for state in ("complete", "pruned", "failed")}


def importances(study: Study) -> dict[str, float]:
    """Return the share that each varied setting had in the results, the largest first; nothing where none can be told.

    Functional ANOVA (Hutter et al. 2014, http://proceedings.mlr.press/v32/hutter14.html): shares of the variance.
    """
    if len(study.sweep.space) < 2 or len({_value(trial) for trial in ranked(study)}) < 2:
        return {}
    judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(optuna.importance.get_param_importances(study.optuna, evaluator=judge))
    except (ValueError, RuntimeError):
        return {}


def print_summary(study: Study, console: Console | None = None) -> None:
    """Print the best trials, what mattered, and what failed."""
    console = console or Console()
    table = Table(title=f"{study.sweep.name}: the best trials by {study.sweep.metric}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column(study.sweep.metric, justify="right")
    for axis in study.sweep.space:
        table.add_column(axis.key, justify="right")
    for trial in ranked(study)[:BEST]:
        varied = [_short(trial.params[axis.key]) for axis in study.sweep.space]
        table.add_row(str(trial.user_attrs["number"]), f"{_value(trial):.4f}", *varied)
    console.print(table)
    console.print(", ".join(f"{count} {state}" for state, count in counts(study).items()), highlight=False)
    for line in [*_what_mattered(importances(study)), *_failures(study.trials())]:
        console.print(line, highlight=False, markup=False)


def _what_mattered(shares: Mapping[str, float]) -> Iterable[str]:
    if shares:
        yield "what mattered: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items())


def _failures(trials: Sequence[FrozenTrial]) -> Iterable[str]:
    for trial in trials:
        if trial.state == TrialState.FAIL:
            yield f"trial {trial.user_attrs['number']} failed: {trial.user_attrs.get('reason', 'stopped')}"
