"""The best run of every data list, on each set of cases that runs were scored on."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.comparison.artifacts import local_folder
from pipeline.comparison.choice import Metric, best_first
from pipeline.comparison.entries import Entry, Reader
from pipeline.comparison.settings_that_differ import settings_of
from pipeline.comparison.statistics import Estimate, mean_interval
from pipeline.comparison.store import FINISHED, Store, TrackedRun

CANDIDATES = 20  # of each fold of a list, by the tracked mean; the table of cases decides
OF_BUNDLE = "data_list"  # what the list of any run's bundle is called


@dataclass(frozen=True)
class Best:
    """The best run on one set of cases of one version of a data list.

    Args:
        data: name of the list's file; the experiment, where that is the copy in a run's bundle.
        digest: of the list; None where none is recorded.
        fold: which fold validated, "all 5" of a cross-validation, "" where there are none.
        entry: the run.
        estimate: of its mean over the cases.
        bundle: where its bundle lies.
        commands: what trains it again.
    """

    data: str
    digest: str | None
    fold: str
    entry: Entry
    estimate: Estimate
    bundle: str
    commands: tuple[str, ...]


def best_runs(store: Store, metric: Metric, experiment: str | None = None) -> list[Best]:
    """Return the best finished run of each data list, by its name, whatever the experiment.

    A list that was changed counts anew, and so does each set of cases, for means over different cases say nothing of
    which run is better: another fold, or the same cases with other labels.

    Args:
        store: where the runs are.
        metric: what makes a run the best.
        experiment: only this one.
    """
    known = store.experiments()
    places = [store.experiment(experiment)] if experiment else list(known)
    runs = [run for run in best_first(store, metric, places, [FINISHED]) if run.evaluation is None]
    reader = Reader(store, metric.split, metric.column, metric.sign)
    found = [_best(entry, metric, known) for entry in _best_entries(reader.entries(_candidates(runs))[0], metric)]
    return sorted(found, key=lambda best: (best.data, best.digest or "", -best.estimate.count, best.fold))


def _candidates(runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """The first runs of each fold of each list; the runs come in the order of their tracked means."""
    groups: dict[object, list[TrackedRun]] = defaultdict(list)
    for run in runs:
        groups[run.digest, settings_of(run).get("fold"), None if run.digest else run.experiment_id].append(run)
    return [run for group in groups.values() for run in group[:CANDIDATES]]


def _best_entries(entries: Sequence[Entry], metric: Metric) -> list[Entry]:
    """The best entry on each set of cases of each list."""
    groups: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        if not math.isnan(entry.mean(metric.column)):
            cases = frozenset((case, entry.contents.get(case)) for case in entry.scores)
            groups[entry.digests, cases].append(entry)
    return [max(group, key=lambda entry: metric.sign * entry.mean(metric.column)) for group in groups.values()]


def _best(entry: Entry, metric: Metric, experiments: Mapping[str, str]) -> Best:
    values = [scores.get(metric.column, math.nan) for scores in entry.scores.values()]
    estimate = mean_interval([value for value in values if math.isfinite(value)])
    name = PurePosixPath(entry.run.tags.get("data_list", OF_BUNDLE)).stem
    data = experiments.get(entry.run.experiment_id, "?") if name == OF_BUNDLE else name
    fold = f"all {len(entry.folds)}" if entry.folds else entry.settings.get("fold", "")
    folder = local_folder(entry.run)
    bundle = str(folder / "bundle") if folder else f"{entry.run.artifact_uri}/bundle"
    return Best(data, entry.sources[0].digest, fold, entry, estimate, bundle, tuple(reproduction(entry)))


def reproduction(entry: Entry) -> list[str]:
    """Return the commands that train a run again: its code, its bundle, its own config with its own seed."""
    run, folder = entry.run, local_folder(entry.run)
    commands = []
    if commit := run.tags.get("mlflow.source.git.commit"):
        changed = "  # and changes that were not committed" if run.tags.get("git.dirty") == "true" else ""
        commands.append(f"git checkout {shlex.quote(commit[:12])}{changed}")
    if folder is None:
        where = ["--run-id", run.id, "--artifact-path", "bundle", "--dst-path", run.id[:8]]
        commands.append(f"mlflow artifacts download {shlex.join(where)}")
    config = f"{folder or run.id[:8]}/bundle/configs/train.json"
    words = ["--config_file", config, "--run_name", f"{run.name}-again"]
    commands.append(f"python -m monai.bundle run training {shlex.join(words)}")
    return commands
