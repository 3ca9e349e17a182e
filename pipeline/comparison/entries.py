"""What a row of a comparison stands for: a run with its evaluations, folds or trials folded into it."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.comparison.artifacts import at_once, read_artifact
from pipeline.comparison.settings_that_differ import same_but, settings_of
from pipeline.comparison.store import FINISHED, Store, TrackedRun

Scores = Mapping[str, Mapping[str, float]]  # by case, then by name
MOST_CHILDREN = 60


@dataclass(frozen=True)
class Entry:
    """A row: one trained variant with the scores of its cases.

    Args:
        label: what it is called.
        run: whose settings it has.
        sources: the runs whose tables the scores come from: itself, its newest evaluation, or its folds.
        scores: by case and name; nan is n/a.
        notes: what was folded into it.
        trials: of a sweep, all of them; the row itself is the best.
    """

    label: str
    run: TrackedRun
    sources: tuple[TrackedRun, ...]
    scores: Scores
    notes: tuple[str, ...] = ()
    trials: tuple[Entry, ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """What it was trained with, without the fold where all folds are in it."""
        found = settings_of(self.run)
        if len(self.sources) > 1:
            found.pop("fold", None)
        return found

    @property
    def digests(self) -> frozenset[str | None]:
        """Digests of the data lists that the scores are of."""
        return frozenset(source.digest for source in self.sources)

    def mean(self, metric: str) -> float:
        """Mean of a score over the cases that have it."""
        values = [scores.get(metric, math.nan) for scores in self.scores.values()]
        return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def read_scores(content: bytes) -> Scores:
    """Return the scores of a `cases.csv` by case; an empty field is nan."""
    rows = csv.DictReader(content.decode().splitlines())
    return {
        row["case"]: {key: float(value) if value else math.nan for key, value in row.items() if key != "case"}
        for row in rows
    }


@dataclass(frozen=True)
class Reader:
    """Makes entries of runs.

    Args:
        store: where the runs are.
        split: whose cases are compared.
        metric: by which the best trial of a sweep is chosen.
        sign: 1 where more is better, -1 where less is.
    """

    store: Store
    split: str
    metric: str
    sign: int = 1

    def entries(self, runs: Sequence[TrackedRun]) -> tuple[list[Entry], list[TrackedRun]]:
        """Return an entry for each run with scores of this split, folds of a variant as one; and the runs without."""
        found = at_once(self.entry, runs)
        without = [run for run, entry in zip(runs, found, strict=True) if entry is None]
        return pool_folds([entry for entry in found if entry is not None]), without

    def entry(self, run: TrackedRun) -> Entry | None:
        """Return the entry of a run, None where neither it nor what is beneath it has scores of this split."""
        if run.evaluation not in (None, self.split):
            return None
        if self.split == "validation" and (own := self._table(run)) is not None:  # asks no question about children
            return Entry(run.name, run, (run,), own)
        children = self._children(run)
        evaluations = [child for child in children if child.evaluation == self.split]
        for source in (run, *evaluations):
            if (scores := self._table(source)) is not None:
                notes = (f"evaluated {len(evaluations)} times; the newest counts",) if len(evaluations) > 1 else ()
                return Entry(run.name, run, (source,), scores, notes)
        return self._group(run, [child for child in children if child.evaluation is None])

    def _group(self, run: TrackedRun, children: Sequence[TrackedRun]) -> Entry | None:
        """One entry for a cross-validation, whose folds are pooled, or for a sweep: its best trial."""
        trials = pool_folds([entry for child in children if (entry := self.entry(child)) is not None])
        if not trials:
            return None
        if len(trials) == 1:
            return replace(trials[0], label=run.name)
        ranked = sorted(trials, key=lambda trial: _ascending(-self.sign * trial.mean(self.metric)))
        note = f"the best of {len(trials)} trials of '{run.name}', chosen on these cases"
        return replace(ranked[0], label=f"{run.name}: {ranked[0].label}", notes=(note,), trials=tuple(ranked))

    def _table(self, run: TrackedRun) -> Scores | None:
        content = read_artifact(self.store, run, f"evaluation/{self.split}/cases.csv")
        return None if content is None else read_scores(content)

    def _children(self, run: TrackedRun) -> list[TrackedRun]:
        beneath = f"tags.`mlflow.parentRunId` = '{run.id}' AND {FINISHED}"
        return self.store.search([run.experiment_id], beneath, ["attributes.start_time DESC"], MOST_CHILDREN)


def pool_folds(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with those that differ by their fold alone as one, if no case is in two of them."""
    groups: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        is_single = len(entry.sources) == 1 and not entry.trials and "fold" in entry.settings
        groups[(same_but(entry.settings, "fold"), entry.digests) if is_single else id(entry)].append(entry)
    pooled = []
    for group in groups.values():
        folds = [entry.settings.get("fold") for entry in group]
        count = sum(len(entry.scores) for entry in group)
        scores = {case: row for entry in group for case, row in entry.scores.items()}
        if len(group) == 1 or len(set(folds)) < len(folds) or len(scores) < count:
            pooled += group
            continue
        group = sorted(group, key=lambda entry: str(entry.settings["fold"]))
        names = ", ".join(entry.label for entry in group)
        note = f"{len(group)} folds as one, {count} cases, each scored by the network that had not seen it: {names}"
        sources = tuple(source for entry in group for source in entry.sources)
        pooled.append(Entry(f"{group[0].label} ({len(group)} folds)", group[0].run, sources, scores, (note,)))
    return pooled


def _ascending(value: float) -> float:
    return math.inf if math.isnan(value) else value
