"""The best run of every data list."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from pipeline.comparison.artifacts import local_folder
from pipeline.comparison.choice import Metric, best_first
from pipeline.comparison.entries import Entry, Reader
from pipeline.comparison.statistics import Estimate, mean_interval
from pipeline.comparison.store import FINISHED, Store

CANDIDATES = 5  # by the tracked mean; the table of cases decides
MOST_LISTS = 8  # versions of one list


@dataclass(frozen=True)
class Best:
    """The best run on one version of a data list.

    Args:
        data: the experiment, which is named after the list.
        digest: of the list; None where none is recorded.
        entry: the run.
        estimate: of its mean over the cases.
        bundle: where its bundle lies.
        commands: what trains it again.
    """

    data: str
    digest: str | None
    entry: Entry
    estimate: Estimate
    bundle: str
    commands: tuple[str, ...]


def best_runs(store: Store, metric: Metric, experiment: str | None = None) -> list[Best]:
    """Return the best finished run of each data list, the lists by name; a list that was changed counts anew.

    Args:
        store: where the runs are.
        metric: what makes a run the best.
        experiment: only this one.
    """
    known = store.experiments()
    wanted = [store.experiment(experiment)] if experiment else sorted(known, key=lambda key: known[key])
    return [best for key in wanted for best in _of_experiment(store, metric, key, known[key])]


def _of_experiment(store: Store, metric: Metric, key: str, name: str) -> list[Best]:
    reader = Reader(store, metric.split, metric.column, metric.sign)
    found: list[Best] = []
    seen: list[str] = []
    while len(seen) < MOST_LISTS:
        others = [f"tags.`data_list.digest` != '{digest}'" for digest in seen]
        runs = best_first(store, metric, key, [FINISHED, *others], CANDIDATES)
        if not runs:
            break
        digest = runs[0].digest
        alike = [run for run in runs if run.digest == digest]
        if digest is not None and len(alike) < len(runs):  # the rest are of other versions, so ask for this one alone
            mine = [FINISHED, f"tags.`data_list.digest` = '{digest}'"]
            alike = best_first(store, metric, key, mine, CANDIDATES)
        entries = [entry for entry in reader.entries(alike)[0] if not math.isnan(entry.mean(metric.column))]
        if entries:
            best = max(entries, key=lambda entry: metric.sign * entry.mean(metric.column))
            found.append(_best(name, digest, best, metric))
        if digest is None:
            break
        seen.append(digest)
    return found


def _best(name: str, digest: str | None, entry: Entry, metric: Metric) -> Best:
    values = [scores.get(metric.column, math.nan) for scores in entry.scores.values()]
    estimate = mean_interval([value for value in values if math.isfinite(value)])
    folder = local_folder(entry.run)
    bundle = str(folder / "bundle") if folder else f"{entry.run.artifact_uri}/bundle"
    return Best(name, digest, entry, estimate, bundle, tuple(reproduction(entry)))


def reproduction(entry: Entry) -> list[str]:
    """Return the commands that train a run again: its code, its bundle, its own config with its own seed."""
    run, folder = entry.run, local_folder(entry.run)
    commands = []
    if commit := run.tags.get("mlflow.source.git.commit"):
        changed = "  # and changes that were not committed" if run.tags.get("git.dirty") == "true" else ""
        commands.append(f"git checkout {commit[:12]}{changed}")
    if folder is None:
        commands.append(f"mlflow artifacts download --run-id {run.id} --artifact-path bundle --dst-path {run.id[:8]}")
    config = f"{folder or run.id[:8]}/bundle/configs/train.json"
    words = ["--config_file", config, "--run_name", f"{run.name}-again"]
    commands.append(f"python -m monai.bundle run training {shlex.join(words)}")
    return commands
