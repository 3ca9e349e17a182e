"""Which run is better, is that luck, and what does it look like: the verbs `compare` and `leaderboard`."""

from __future__ import annotations

import atexit
import gc
import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pipeline.comparison.artifacts import at_once, read_artifact
from pipeline.comparison.choice import Metric, choose_best, choose_named, parse_metric
from pipeline.comparison.comparison import Comparison, compare_entries
from pipeline.comparison.comparison_page import comparison_page, interval
from pipeline.comparison.drawings import drawn_lines
from pipeline.comparison.entries import Entry, Reader
from pipeline.comparison.leaderboard import Best, best_runs
from pipeline.comparison.side_by_side import opponents
from pipeline.comparison.store import Store, TrackedRun
from pipeline.comparison.terminal import (
    cases_csv,
    comparison_csv,
    made_csv,
    made_table,
    make_console,
    print_comparison,
    shown,
)
from pipeline.errors import InputError, did_you_mean, visible
from pipeline.slices import Slice, read_slices
from pipeline.volumes.atomic import atomic_write_text

logger = logging.getLogger(__name__)

METRIC = "val/mean_dice"
MOST_RUNS = 30


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: among the objects of MLflow that takes a fifth of the time, and finds little."""
    atexit.register(gc.freeze)  # else Python looks for it once more before it ends, for a second
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_uncollected()
def compare(
    experiment: str | None = None,
    runs: Sequence[str] = (),
    filter_: str | None = None,
    metric: str | None = None,
    baseline: str | None = None,
    uri: str | None = None,
    split: str | None = None,
    output: str | Path = "comparison",
    most: int = MOST_RUNS,
) -> Comparison:
    """Compare runs over the cases that they have in common: in the terminal, as CSV, and as one page.

    Args:
        experiment: whose finished runs to compare; by default that of the newest run.
        runs: names, ids or beginnings of ids instead; a sweep stands for its trials.
        filter_: MLflow's search words, such as "params.learning_rate = '0.001'".
        metric: `val/mean_dice`, `test/dice/cell`, or a column of `cases.csv`.
        baseline: name or id; by default the first that is named, else the oldest, of those that have the score.
        uri: the store; without one `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory.
        split: "validation" or "test"; by default what the metric says.
        output: folder for `comparison.html`, `comparison.csv` and `cases.csv`.
        most: how many of an experiment's runs to compare at most, the best ones.
    """
    _quiet()
    if runs and filter_:
        raise InputError("--runs and --filter exclude each other", remedy="give one of them")
    if most < 1:
        raise InputError(f"--most {most} leaves no run to compare", remedy="give 1 or more")
    folder = _checked_folder(output)
    store, wanted = Store(uri), parse_metric(metric or (METRIC if split != "test" else "test/mean_dice"), split)
    if runs:
        named = [*runs, *([baseline] if baseline and baseline not in runs else [])]
        title, entries, notes = choose_named(store, wanted, named, experiment)
    else:
        title, entries, notes = choose_best(store, wanted, experiment, filter_, most)
    _check_metric(entries, wanted)
    base, entries, said = _baseline(store, wanted, entries, baseline, bool(runs))
    files = _Files(store)
    found = compare_entries(entries, base, wanted, files, [*notes, *said])
    console = make_console()
    print_comparison(console, found, f"{title}: {wanted.name}")
    atomic_write_text(folder / "comparison.csv", comparison_csv(found))
    atomic_write_text(folder / "cases.csv", cases_csv(found))
    now = f"{datetime.now():%Y-%m-%d %H:%M}"
    page = comparison_page(found, title, _histories(store, found), _slices(store, found), now)
    atomic_write_text(folder / "comparison.html", page)
    console.print(f"wrote {shown(str(folder / 'comparison.html'))}, comparison.csv, cases.csv")
    return found


@_uncollected()
def leaderboard(
    experiment: str | None = None,
    metric: str | None = None,
    uri: str | None = None,
    split: str | None = None,
    output: str | Path | None = None,
) -> list[Best]:
    """Print the best finished run of each data list: its score, its bundle, and the commands that train it again.

    Runs are ranked among those of the same cases: each fold of a list has a row of its own.

    Args:
        experiment: only this one.
        metric: as for `compare`.
        uri: as for `compare`.
        split: as for `compare`.
        output: folder for `leaderboard.csv`; none without.
    """
    _quiet()
    folder = None if output is None else _checked_folder(output)
    wanted = parse_metric(metric or (METRIC if split != "test" else "test/mean_dice"), split)
    found = best_runs(Store(uri), wanted, experiment)
    if not found:
        raise InputError(f"no finished run has a score '{wanted.name}'", remedy="train first, or give another --metric")
    console = make_console()
    rows = [
        {
            "data list": best.data,
            "digest": (best.digest or "")[:8],
            "fold": best.fold,
            "best run": best.entry.label,
            wanted.name: interval(best.estimate),
            "cases": best.estimate.count,
        }
        for best in found
    ]
    console.print(made_table("leaderboard", rows))
    if max(Counter((best.data, best.digest) for best in found).values()) > 1:
        console.print("rows of one list are of other cases (folds, or changed files): their scores do not rank them")
    for best in found:
        console.print(f"[bold]{shown(best.data)}[/bold] {shown((best.digest or '')[:8])}", soft_wrap=True)
        for line in (f"bundle: {best.bundle}", *best.commands):
            console.print(f"  {shown(line)}", soft_wrap=True)
    if folder is not None:
        texts = [[best.bundle, " && ".join(best.commands)] for best in found]
        lines = [[*row.values(), *text] for row, text in zip(rows, texts, strict=True)]
        atomic_write_text(folder / "leaderboard.csv", made_csv([*rows[0], "bundle", "commands"], lines))
        console.print(f"wrote {shown(str(folder / 'leaderboard.csv'))}")
    return found


class _Files:
    """Files of entries' runs, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], bytes | None] = {}

    def __call__(self, entry: Entry, path: str) -> bytes | None:
        key = (entry.run.id, path)
        if key not in self._known:
            try:
                self._known[key] = read_artifact(self._store, entry.run, path)
            except (InputError, OSError):  # as good as not kept
                self._known[key] = None
        return self._known[key]


def _baseline(
    store: Store, metric: Metric, entries: list[Entry], word: str | None, are_named: bool
) -> tuple[Entry, list[Entry], list[str]]:
    """Return the baseline, the entries with it among them, and how it was chosen."""
    if word is None:
        able = [entry for entry in entries if not math.isnan(entry.mean(metric.column))]
        base = able[0] if are_named else min(able, key=lambda entry: entry.run.start)
        which = "first run that was named" if are_named else "oldest run"
        with_score = "" if len(able) == len(entries) else " with this score"
        return base, entries, [f"the baseline is the {which}{with_score}, {base.label}; --baseline takes another"]
    meant = [entry for entry in entries if word in _names(entry)]
    meant = meant or [entry for entry in entries if len(word) > 3 and any(key.startswith(word) for key in _ids(entry))]
    if meant:
        base, notes = max(meant, key=lambda entry: entry.run.start), []
        if len(meant) > 1:
            notes.append(f"{len(meant)} runs are called '{word}': the newest counts ({base.run.id[:8]})")
    else:
        base, notes = _from_elsewhere(store, metric, word)
        known = [entry for entry in entries if entry.run.id == base.run.id]  # the best trial of a sweep that is meant
        base, entries = (known[0], entries) if known else (base, [*entries, base])
    if math.isnan(base.mean(metric.column)):
        raise InputError(f"the baseline '{word}' has no score '{metric.column}'", remedy="take another --baseline")
    if base.folds and word != base.label:
        notes.append(f"the baseline is {base.label}, with all folds of the variant that '{word}' is of")
    return base, entries, notes


def _from_elsewhere(store: Store, metric: Metric, word: str) -> tuple[Entry, list[str]]:
    """A baseline that is not among the runs that were chosen, and what is to be said of it."""
    runs, notes = store.named([word], list(store.experiments()))
    found, left = Reader(store, metric.split, metric.column, metric.sign).entries(runs)
    if left:
        raise InputError(f"the baseline '{word}' is left out: {left[0].reason}", remedy="take another --baseline")
    return found[0], notes


def _names(entry: Entry) -> set[str]:
    """What an entry is called: by itself, by its folds, by the sweep that it is the best trial of."""
    of_sweep = {entry.label.split(": ")[0]} if entry.trials else set()
    return {entry.label, entry.run.name, *(fold.label for fold in entry.folds), *of_sweep}


def _ids(entry: Entry) -> list[str]:
    return [run.id for one in (entry, *entry.folds) for run in (one.run, *one.sources)]


def _checked_folder(output: str | Path) -> Path:
    """The folder for what is written, in a place where that is possible: said before the work, not after it."""
    folder = Path(output)
    try:
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise InputError(
            f"there can be no such folder: {error.strerror}", file=output, remedy="give another"
        ) from error
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "no folder" if not place.is_dir() else "no place to write to"
        raise InputError(f"{place} is {why}", file=output, remedy="give another folder with --output")
    return folder


def _check_metric(entries: Sequence[Entry], metric: Metric) -> None:
    known = dict.fromkeys(name for entry in entries for scores in entry.scores.values() for name in scores)
    if metric.column not in known:
        raise InputError(f"no run has scores '{metric.column}'", remedy=did_you_mean(metric.column, known))
    if all(math.isnan(entry.mean(metric.column)) for entry in entries):
        raise InputError(f"'{metric.column}' is n/a in every case of every run", remedy="give another --metric")


def _histories(store: Store, found: Comparison) -> Mapping[str, list[tuple[int, float]]]:
    ids = dict.fromkeys(run.id for row in drawn_lines(found) for run in (row.entry.run, *row.entry.sources))
    return store.histories(list(ids), f"val/{found.metric.column}")


def _slices(store: Store, found: Comparison) -> list[Mapping[str, Slice]]:
    """The slices of the baseline and of the best other run, of all their folds."""

    def of_row(entry: Entry) -> Mapping[str, Slice]:
        return {case: kept for run in entry.sources for case, kept in of_run(run).items()}

    def of_run(run: TrackedRun) -> Mapping[str, Slice]:
        name = visible(run.name)
        try:
            content = read_artifact(store, run, f"evaluation/{found.metric.split}/slices.npz")
        except (InputError, OSError) as error:
            logger.warning(f"run '{name}': its pictures of cases cannot be read ({visible(error)}): shown without")
            return {}
        return {} if content is None else read_slices(content, f"run '{name}'")

    pair = opponents(found)
    return [] if pair is None else at_once(of_row, [row.entry for row in pair])


def _quiet() -> None:
    """Leave out what MLflow says of its own tables when a store is opened."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated")
