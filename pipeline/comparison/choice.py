"""Which runs are compared: those that were named, or the best of an experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.comparison.entries import Entry, Left, Reader
from pipeline.comparison.store import FINISHED, TOP, Store, TrackedRun
from pipeline.errors import InputError

SPLITS = {"val": "validation", "validation": "validation", "test": "test", "best": "validation"}
LESS_IS_BETTER = {"error", "distance", "hd95", "loss"}  # words of a measure's name
MOST_TRIALS = 100  # of a sweep, each in a row of its own
MOST_NAMES = 5  # in a sentence


@dataclass(frozen=True)
class Metric:
    """A score of `cases.csv`: its column, the split, and whether more is better.

    Args:
        column: "mean_dice", "dice/cell".
        split: "validation" or "test".
    """

    column: str
    split: str

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one; not so for errors and distances, of whatever class."""
        return not LESS_IS_BETTER & set(self.column.split("/")[0].split("_"))

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.higher_is_better else -1

    @property
    def name(self) -> str:
        """As the store calls it: "val/mean_dice"."""
        return f"{'val' if self.split == 'validation' else self.split}/{self.column}"


def parse_metric(word: str, split: str | None = None) -> Metric:
    """Return the metric that `val/mean_dice`, `val_mean_dice`, `test/dice/cell` or `mean_dice` mean.

    Args:
        word: as the store, or a column of `cases.csv`, calls it.
        split: overrules none, but fills in for what the word does not say.
    """
    for prefix, meant in SPLITS.items():
        if word.startswith((f"{prefix}/", f"{prefix}_")):
            if split not in (None, meant):
                raise InputError(f"'{word}' is of the {meant} split, not of '{split}'", remedy="leave --split out")
            return Metric(word[len(prefix) + 1 :], meant)
    return Metric(word, split or "validation")


class Chosen(NamedTuple):
    """Entries in the order they were asked for, and what is to be said of the choice."""

    experiment: str
    entries: list[Entry]
    notes: list[str]


def choose_experiment(store: Store, name: str | None) -> tuple[str, str, list[str]]:
    """Return id and name of the experiment asked for, else of the newest finished run, and what is to be said."""
    if name is not None:
        return store.experiment(name), name, []
    known = store.experiments()
    newest = store.search(list(known), FINISHED, ["attributes.start_time DESC"], 1)
    if not newest:
        raise InputError(f"no finished run in {store.uri}", remedy="train first, or give another --uri")
    key = newest[0].experiment_id
    others = [other for other in known.values() if other not in (known[key], "Default")]
    said = f"experiment '{known[key]}' has the newest run; others: {', '.join(sorted(others))}"
    return key, known[key], [said] if others else []


def choose_named(store: Store, metric: Metric, words: Sequence[str], experiment: str | None) -> Chosen:
    """Return the entries of runs that were named; a sweep stands for its trials."""
    known = store.experiments()
    runs, notes = store.named(words, [store.experiment(experiment)] if experiment else list(known))
    reader = Reader(store, metric.split, metric.column, metric.sign)
    found, left = reader.entries(runs)
    notes += [f"'{run.name}' is not finished ({run.status})" for run in runs if run.status != "FINISHED"]
    notes += _left_out(metric, found, left)
    names = sorted({known.get(run.experiment_id, "?") for run in runs})
    return Chosen(", ".join(names), unfolded(found), notes)


def choose_best(store: Store, metric: Metric, experiment: str | None, filter_: str | None, most: int) -> Chosen:
    """Return the entries of an experiment's finished runs, the best ones where there are more than `most`."""
    key, name, notes = choose_experiment(store, experiment)
    words = [filter_] if filter_ else []
    words += [] if filter_ and "status" in filter_ else [FINISHED]
    runs = best_first(store, metric, [key], [*words, TOP] if metric.split == "validation" else words, most + 1)
    if not runs:
        wanted = "finished run" if metric.split == "validation" else f"evaluation of the {metric.split} split"
        fits = f" fits the filter {filter_}" if filter_ else ""
        raise InputError(
            f"no {wanted} of the experiment '{name}'{fits}", remedy="give another --filter or --experiment"
        )
    if len(runs) > most:
        notes.append(
            f"the best {most} of more runs by {metric.name}, chosen on the very cases they are compared on, which "
            "flatters them; name runs or give a filter for others"
        )
    reader = Reader(store, metric.split, metric.column, metric.sign)
    found, left = reader.entries([run for run in runs[:most] if run.evaluation in (None, metric.split)])
    notes += _left_out(metric, found, left)
    return Chosen(name, unfolded(found) if len(found) == 1 else found, notes)


def unfolded(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with every sweep replaced by its trials; the best of them says that it is."""
    return [one for entry in entries for one in (_trials(entry) if entry.trials else (entry,))]


def _trials(sweep: Entry) -> list[Entry]:
    first, *others = sweep.trials[:MOST_TRIALS]
    left = len(sweep.trials) - MOST_TRIALS
    more = (f"{left} of the {len(sweep.trials)} trials, the worst, have no row here",) if left > 0 else ()
    return [replace(first, notes=(*sweep.notes, *more)), *others]


def best_first(
    store: Store, metric: Metric, experiments: Sequence[str], filters: Sequence[str], most: float = math.inf
) -> list[TrackedRun]:
    """Return the runs that the store holds for the best; those of the test split are found by their evaluations.

    Args:
        store: where the runs are.
        metric: by which they are ordered, as the store has it.
        experiments: their ids.
        filters: conditions in MLflow's words, all of which hold.
        most: how many.
    """
    if metric.split == "validation":
        return store.search(experiments, " AND ".join(filters), [_order(metric)], most)
    of_split = [*filters, f"tags.evaluation = '{metric.split}'"]
    return _tops(store, store.search(experiments, " AND ".join(of_split), [_order(metric)], most))


def _tops(store: Store, runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """Return the runs that others are beneath; one whose parent is deleted stands for itself."""
    tops: dict[str, TrackedRun] = {}
    while runs:
        ids = ", ".join(f"'{key}'" for key in sorted({run.parent for run in runs if run.parent}))
        places = sorted({run.experiment_id for run in runs})
        parents = store.search(places, f"attributes.run_id IN ({ids})") if ids else []
        known = {run.id for run in parents}
        tops |= {run.id: run for run in runs if run.parent not in known}
        runs = parents
    return list(tops.values())


def _order(metric: Metric) -> str:
    name = f"best/{metric.column}" if metric.name == "val/mean_dice" else metric.name
    return f"metrics.`{name}` {'DESC' if metric.higher_is_better else 'ASC'}"


def _left_out(metric: Metric, found: Sequence[Entry], left: Sequence[Left]) -> list[str]:
    """What is to be said of runs without an entry, one sentence for each reason; an error where no run has one."""
    reasons = dict.fromkeys(one.reason for one in left)
    said = []
    for reason in reasons:
        names = some([one.run.name for one in left if one.reason == reason])
        said.append(f"left out, {reason}: {names}")
    if not found:
        lacks = f"no run here has scores of the {metric.split} split; {'; '.join(said)}"
        raise InputError(lacks, remedy="evaluate them, bring back what is gone, or choose other runs")
    return said


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
