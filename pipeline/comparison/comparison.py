"""Runs against a baseline: which are better, by how much, on which cases, and what cannot be compared."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.comparison.choice import Metric, some
from pipeline.comparison.entries import Entry
from pipeline.comparison.settings_that_differ import Column, columns, same_but
from pipeline.comparison.statistics import (
    LEVEL,
    Difference,
    Estimate,
    SeedSpread,
    difference,
    holm,
    mean_interval,
    seed_spread,
)

FileReader = Callable[[Entry, str], bytes | None]
LEAST_FREEDOM = 2  # of the spread between seeds: with 1, t(0.975) is 12.7, and any difference would be luck
VERDICTS = {  # by whether the ranks of the cases, and whether the mean, say that it is better
    (True, True): "better",
    (False, False): "worse",
    (True, False): "most cases better, mean worse",
    (False, True): "most cases worse, mean better",
}


@dataclass(frozen=True)
class Row:
    """What a comparison says of one entry.

    Args:
        entry: the run.
        label: its name, with the beginning of its id where another has the same name.
        estimate: of its mean over its own cases.
        not_applicable: how many of its cases have no score.
        common: cases that it shares with the baseline, both with a score, on the same data.
        of: how many cases the baseline has.
        difference: to the baseline over the common cases; None for the baseline and where there are none.
        corrected_p: Wilcoxon's p, corrected by Holm over all rows.
        verdict: "baseline", one of `VERDICTS`, "no difference shown", "within seed luck" or "not comparable".
        remarks: what a reader must know before believing the row.
    """

    entry: Entry
    label: str
    estimate: Estimate
    not_applicable: int
    common: tuple[str, ...]
    of: int
    difference: Difference | None
    corrected_p: float
    verdict: str
    remarks: tuple[str, ...]

    @property
    def has_same_cases(self) -> bool:
        """Whether its mean is over the very cases that the baseline's is."""
        return len(self.common) == self.of == self.estimate.count


@dataclass(frozen=True)
class Comparison:
    """Rows, the best first and what cannot be compared last, and what differs between them.

    Args:
        metric: what is compared.
        baseline: the row that the others are compared with.
        rows: all of them.
        columns: settings that differ, values in the order of the rows.
        seeds: how far another seed moves a mean, where runs tell.
        notes: what is to be said of the whole.
    """

    metric: Metric
    baseline: Row
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: SeedSpread | None
    notes: tuple[str, ...]

    @property
    def compared(self) -> list[Row]:
        """The rows with a difference to the baseline."""
        return [row for row in self.rows if row.difference is not None]


def compare_entries(
    entries: Sequence[Entry], baseline: Entry, metric: Metric, read: FileReader, notes: Sequence[str] = ()
) -> Comparison:
    """Compare entries with a baseline among them.

    Args:
        entries: the runs.
        baseline: one of them.
        metric: what to compare.
        read: gives a file of an entry's run, for the data lists of runs whose digests differ.
        notes: what is to be said of the choice of runs.
    """
    labels = _labels(entries)
    rows = [_row(entry, labels[id(entry)], baseline, metric, read) for entry in entries]
    corrected = holm([math.nan if row.difference is None else row.difference.p for row in rows])
    seeds, of_seeds = _seeds(entries, metric)
    tests = sum(row.difference is not None for row in rows)
    rows = [_judged(row, p, seeds, tests, metric.sign) for row, p in zip(rows, corrected, strict=True)]
    rows.sort(key=lambda row: (row.verdict == "not comparable", _last_if_nan(-metric.sign * row.estimate.mean)))
    differing = columns([row.entry.shown_settings for row in rows])
    said = [*_remarks(rows), *of_seeds, *notes]
    (base,) = (row for row in rows if row.entry is baseline)
    return Comparison(metric, base, tuple(rows), tuple(differing), seeds, tuple(said))


def _remarks(rows: Sequence[Row]) -> list[str]:
    """The remarks of all rows, each once with the runs that it is of."""
    speakers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for remark in row.remarks:
            speakers[remark].append(f"'{row.label}'")
    return [f"{some(names)}: {remark}" for remark, names in speakers.items()]


def _row(entry: Entry, label: str, baseline: Entry, metric: Metric, read: FileReader) -> Row:
    """The row of an entry, but for what depends on the other rows."""
    own = _scores(entry, metric)
    theirs = _scores(baseline, metric)
    missing = len(entry.scores) - len(own)
    remarks = list(entry.notes)
    if not any(metric.column in scores for scores in entry.scores.values()):
        remarks.append(f"has no score '{metric.column}'")
    elif missing:
        remarks.append(f"{missing} of {len(entry.scores)} cases are n/a and left out")
    estimate = mean_interval(list(own.values()))
    if entry is baseline:
        return Row(entry, label, estimate, missing, tuple(own), len(own), None, math.nan, "baseline", tuple(remarks))
    same, why = _same_cases(entry, baseline, read)
    common = tuple(case for case in theirs if case in own and case in same)
    remarks += why
    if own and not len(common) == len(theirs) == len(own):
        remarks.append(
            f"compared on the {len(common)} cases that it has in common with the baseline's {len(theirs)}"
            if common
            else "not comparable: no case in common with the baseline on the same data"
        )
    found = None
    if common:
        ours, base = ([scores[case] for case in common] for scores in (own, theirs))
        found = difference(ours, base, metric.higher_is_better)
    return Row(entry, label, estimate, missing, common, len(theirs), found, math.nan, "", tuple(remarks))


def _same_cases(entry: Entry, baseline: Entry, read: FileReader) -> tuple[set[str], list[str]]:
    """The cases of one name that hold the same data in both, and what is to be said of the others."""
    ids = entry.scores.keys() & baseline.scores.keys()
    ours, theirs = entry.contents, baseline.contents
    same = {case for case in ids if case in ours and ours[case] == theirs.get(case)}
    other = {case for case in ids - same if case in ours and case in theirs}
    said = [f"other data than the baseline's in {len(other)} of {len(ids)} cases of one name: {some(sorted(other))}"]
    believed, why = _same_by_list(entry, baseline, ids - same - other, read)
    return same | believed, [*(said if other else []), *why]


def _same_by_list(entry: Entry, baseline: Entry, ids: Collection[str], read: FileReader) -> tuple[set[str], list[str]]:
    """Of cases whose content is not recorded, those that the data lists do not tell apart."""
    if not ids:
        return set(), []
    unknown = "what the files held is not recorded, here or for the baseline"
    if None in entry.digests | baseline.digests:
        return set(ids), [f"{unknown}, and no data list: cases of one name are taken to be the same"]
    if entry.digests == baseline.digests and len(entry.digests) == 1:
        return set(ids), [f"{unknown}: cases of one name in the same data list are taken to be the same"]
    lists = [_listed(read(one, "bundle/configs/data_list.json")) for one in (entry, baseline)]
    names = f"other data list ({_short(entry)} instead of {_short(baseline)})"
    if not all(lists):
        return set(), [f"{names}, and the lists themselves are not kept: cases of one name may be other files"]
    same = {case for case in ids if lists[0].get(case, 0) == lists[1].get(case, 1)}
    return same, [f"{names}: {len(same)} of {len(ids)} cases of one name have the same paths in both; {unknown}"]


def _listed(content: bytes | None) -> dict[str, str]:
    """The files of each case of a data list."""
    try:
        cases = json.loads(content or b"{}").get("cases", [])
        return {case["id"]: json.dumps([case["image"], case.get("label")]) for case in cases}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}


def _judged(row: Row, p: float, seeds: SeedSpread | None, tests: int, sign: int) -> Row:
    """The row with its verdict, and with a remark where the numbers cannot carry one."""
    found = row.difference
    if found is None:
        return row if row.verdict else replace(row, verdict="not comparable")
    remarks = list(row.remarks)
    if found.least_p * tests > LEVEL and found.estimate.count > found.equal:
        unequal = found.estimate.count - found.equal
        remarks.append(
            f"{unequal} unequal pair(s) are too few: p cannot get below {found.least_p:.2g}, corrected for {tests} "
            f"comparison(s) {min(found.least_p * tests, 1):.2g}"
        )
    verdict = "no difference shown"
    if p < LEVEL:
        verdict = VERDICTS[found.tendency > 0, sign * found.estimate.mean > 0]
        if seeds is not None and abs(found.estimate.mean) <= seeds.bound:
            verdict = "within seed luck"
    return replace(row, corrected_p=p, verdict=verdict, remarks=tuple(remarks))


def _seeds(entries: Sequence[Entry], metric: Metric) -> tuple[SeedSpread | None, list[str]]:
    """The spread of means between runs that differ by their seed alone; none, and a note, where it tells too little."""
    found = seed_spread(_means_by_variant(entries, metric))
    if found is None or found.freedom >= LEAST_FREEDOM:
        return found, []
    few = f"{found.runs} runs that differ by their seed alone are too few to tell what luck of the seed is worth"
    return None, [f"{few} ({found.freedom} degree of freedom); train a third"]


def _means_by_variant(entries: Sequence[Entry], metric: Metric) -> list[list[float]]:
    """For each variant the means of its runs with different seeds, over the cases that these have in common."""
    variants: dict[object, dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        if "seed" in (settings := entry.settings):  # a repetition with the same seed may be of other code
            key = same_but(settings, "seed"), entry.digests, entry.run.data_digest
            variants[key].setdefault(settings["seed"], entry)
    means = []
    for group in variants.values():
        tables = [
            {(case, entry.contents.get(case)): score for case, score in _scores(entry, metric).items()}
            for entry in group.values()
        ]
        common = set.intersection(*map(set, tables))
        if common:
            means.append([float(np.mean([table[case] for case in tables[0] if case in common])) for table in tables])
    return means


def _scores(entry: Entry, metric: Metric) -> dict[str, float]:
    """The scores that are numbers, by case; an infinite one is no number."""
    found = {case: scores.get(metric.column, math.nan) for case, scores in entry.scores.items()}
    return {case: value for case, value in found.items() if math.isfinite(value)}


def _labels(entries: Sequence[Entry]) -> dict[int, str]:
    names = [entry.label for entry in entries]
    return {
        id(entry): f"{entry.label} ({entry.run.id[:6]})" if names.count(entry.label) > 1 else entry.label
        for entry in entries
    }


def _short(entry: Entry) -> str:
    return ", ".join(sorted(str(digest)[:8] for digest in entry.digests))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
