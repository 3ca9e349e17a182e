"""What a row of a comparison stands for: a run with its evaluations, folds or trials folded into it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from pipeline.comparison.artifacts import at_once, local_folder, read_artifact
from pipeline.comparison.settings_that_differ import same_but, settings_of, shown_settings
from pipeline.comparison.store import FINISHED, Store, TrackedRun
from pipeline.comparison.tables import Scores, Table, read_table
from pipeline.errors import InputError


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
        folds: of a cross-validation, all of them.
        contents: digests of the cases' files, of those cases where they are known.
    """

    label: str
    run: TrackedRun
    sources: tuple[TrackedRun, ...]
    scores: Scores
    notes: tuple[str, ...] = ()
    trials: tuple[Entry, ...] = ()
    folds: tuple[Entry, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """What it was trained with, without the fold where all folds are in it."""
        return self._without_fold(settings_of(self.run))

    @property
    def shown_settings(self) -> dict[str, str]:
        """Its settings, and where its code and its data come from."""
        return self._without_fold(shown_settings(self.run))

    @property
    def digests(self) -> frozenset[str | None]:
        """Digests of the data lists that the scores are of."""
        return frozenset(source.digest for source in self.sources)

    def mean(self, metric: str) -> float:
        """Mean of a score over the cases where it is a number."""
        values = np.array([scores.get(metric, math.nan) for scores in self.scores.values()])
        return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else math.nan

    def _without_fold(self, settings: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in settings.items() if key != "fold" or len(self.sources) < 2}


class Left(NamedTuple):
    """A run without an entry, and the reason."""

    run: TrackedRun
    reason: str


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

    def entries(self, runs: Sequence[TrackedRun]) -> tuple[list[Entry], list[Left]]:
        """Return an entry for each run with scores of this split, folds of a variant as one; and the runs without."""
        found = at_once(self._tried, runs)
        left = [one for one in found if isinstance(one, Left)]
        return pool_folds([one for one in found if isinstance(one, Entry)]), left

    def entry(self, run: TrackedRun) -> Entry | None:
        """Return the entry of a run, None where neither it nor what is beneath it has scores of this split."""
        if run.evaluation not in (None, self.split):
            return None
        if self.split == "validation" and (own := self._table(run)) is not None:  # asks no question about children
            return _single(run, run, own)
        children = self._children(run)
        evaluations = [child for child in children if child.evaluation == self.split]
        for source in (run, *evaluations):
            if (table := self._table(source)) is not None:
                times = len(evaluations)
                return _single(run, source, table, f"evaluated {times} times; the newest counts" if times > 1 else "")
        return self._group(run, [child for child in children if child.evaluation is None])

    def _tried(self, run: TrackedRun) -> Entry | Left:
        """The entry of a run, or why there is none: one damaged table spoils no comparison."""
        try:
            return self.entry(run) or Left(run, self._lacks(run))
        except InputError as error:
            return Left(run, error.reason)
        except OSError as error:
            return Left(run, f"its files cannot be read ({error.strerror})")

    @property
    def _no_scores(self) -> str:
        return f"no scores of the {self.split} split (evaluation/{self.split}/cases.csv)"

    def _lacks(self, run: TrackedRun) -> str:
        folder = local_folder(run)
        if folder is not None and run.metrics and not folder.is_dir():
            return f"its files are gone from {folder.parent.parent}"
        return self._no_scores

    def _group(self, run: TrackedRun, children: Sequence[TrackedRun]) -> Entry | None:
        """One entry for a cross-validation, whose folds are pooled, or for a sweep: its best trial."""
        found = at_once(self._tried, children)
        trials = pool_folds([one for one in found if isinstance(one, Entry)])
        # A trial that was pruned has no scores, and nobody misses them.
        lost = [one for one in found if isinstance(one, Left) and one.reason != self._no_scores]
        notes = tuple(f"{one.run.name} is left out of it: {one.reason}" for one in lost)
        if not trials:
            if lost:
                raise InputError(lost[0].reason)
            return None
        if len(trials) == 1:
            return replace(trials[0], label=run.name, notes=(*trials[0].notes, *notes))
        ranked = sorted(trials, key=lambda trial: _ascending(-self.sign * trial.mean(self.metric)))
        note = f"the best of {len(trials)} trials of '{run.name}', chosen on these cases"
        best = ranked[0]
        return replace(best, label=f"{run.name}: {best.label}", notes=(note, *notes), trials=tuple(ranked))

    def _table(self, run: TrackedRun) -> Table | None:
        content = read_artifact(self.store, run, f"evaluation/{self.split}/cases.csv")
        return None if content is None else read_table(content)

    def _children(self, run: TrackedRun) -> list[TrackedRun]:
        beneath = f"tags.`mlflow.parentRunId` = '{run.id}' AND {FINISHED}"
        return self.store.search([run.experiment_id], beneath, ["attributes.start_time DESC"])


def pool_folds(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with those that differ by their fold alone as one, if no case is in two of them.

    Their data must be the same: the list, and the content of all cases that they trained and validated with.
    """
    groups: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        is_single = len(entry.sources) == 1 and not entry.trials and "fold" in entry.settings
        same = same_but(entry.settings, "fold"), entry.digests, entry.run.data_digest
        groups[same if is_single else id(entry)].append(entry)
    pooled = []
    for group in groups.values():
        is_fold = [entry.settings.get("fold") for entry in group]
        cases = [case for entry in group for case in entry.scores]
        is_whole = len(group) > 1 and len(set(is_fold)) == len(group) and len(set(cases)) == len(cases)
        pooled += [_pooled(group)] if is_whole else group
    return pooled


def _pooled(group: Sequence[Entry]) -> Entry:
    folds = tuple(sorted(group, key=lambda entry: str(entry.settings["fold"])))
    first = folds[0]
    scores = {case: row for entry in folds for case, row in entry.scores.items()}
    contents = {case: digest for entry in folds for case, digest in entry.contents.items()}
    names = ", ".join(entry.label for entry in folds)
    note = f"{len(folds)} folds as one, {len(scores)} cases, each scored by the network that had not seen it: {names}"
    if first.run.data_digest is None:
        note += "; whether all of them had the same files is not recorded"
    sources = tuple(source for entry in folds for source in entry.sources)
    label = f"{first.label} ({len(folds)} folds)"
    return Entry(label, first.run, sources, scores, (note,), folds=folds, contents=contents)


def _single(run: TrackedRun, source: TrackedRun, table: Table, note: str = "") -> Entry:
    return Entry(run.name, run, (source,), table.scores, (note,) if note else (), contents=table.contents)


def _ascending(value: float) -> float:
    return math.inf if math.isnan(value) else value
