"""A comparison as one page: the answer, the table, the pictures, and how it was reckoned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from pipeline.comparison import drawings
from pipeline.comparison.comparison import VERDICTS, Comparison, Row
from pipeline.comparison.side_by_side import opponents, side_by_side, worst_cases
from pipeline.comparison.statistics import Difference, Estimate
from pipeline.pages.page import Cell, Html, beside, facts, figure, folded, glance, page, section, table, text
from pipeline.slices import Slice

MOST_COLUMNS = 5  # of settings in the main table; all of them stand in a table of their own
OWN_COLUMNS = {"run", "difference", "p (Holm)", "verdict", "better / worse", "cases"}
MOST_NOTES = 8
MOST_SENTENCES = 4  # with all numbers, which the table has too
LINES = "A line per run: the best is blue, the others the darker the better."
MEANINGS = {
    "better": "better than the baseline, by more than the choice of cases explains",
    "worse": "worse than the baseline, by more than the choice of cases explains",
    "most cases better, mean worse": "most cases are better, but a few so much worse that the mean is worse too",
    "most cases worse, mean better": "most cases are worse, but a few so much better that the mean is better too",
    "within seed luck": "another network, but another seed alone moves the mean as far",
    "no difference shown": "these cases do not tell it from the baseline",
    "not comparable": "no case in common with the baseline on the same data",
}
METHOD = (
    "Mean: over the run's cases, with a 95% bootstrap interval over cases (BCa, 9999 resamples, a fixed seed). "
    "Difference: run minus baseline over the cases that both have, with an interval of the same kind. "
    "p: Wilcoxon's signed-rank test over these pairs, two-sided, equal pairs left out, corrected by Holm for all rows; "
    "below 0.05 a run is called better or worse, as the ranks of the cases have it; where the mean has it otherwise, "
    "both are said. The test asks whether these trained networks differ on cases like "
    "these. It cannot tell a better method from a lucky seed: for that, train each variant with two seeds or more."
)


def comparison_page(
    comparison: Comparison,
    experiment: str,
    histories: Mapping[str, drawings.History],
    kept: Sequence[Mapping[str, Slice]],
    when: str,
) -> str:
    """Return the whole page.

    Args:
        comparison: what was found.
        experiment: the experiment's name.
        histories: (epoch, value) pairs of the validation metric by run id.
        kept: slices of the baseline's and of the best other run's cases.
        when: date and time, as it is to be read.
    """
    count = comparison.baseline.estimate.count
    subtitle = f"{len(comparison.rows)} runs, {count} {comparison.metric.split} cases, {when}"
    sections = [
        section("Answer", *_answer(comparison)),
        *_notes(comparison),
        section("Runs", _runs(comparison), *_all_settings(comparison), *_trials(comparison)),
        *_pictures(comparison, histories),
        *_cases(comparison, kept),
        section("How it is reckoned", text(METHOD), facts(MEANINGS), *_seeds(comparison)),
    ]
    return page(f"{experiment}: {comparison.metric.name}", sections, subtitle)


def answer(comparison: Comparison) -> list[str]:
    """Return the findings as sentences: which runs are better, which worse, which cannot be told apart."""
    base, names = comparison.baseline, _by_verdict(comparison)
    lines = []
    for verdict in VERDICTS.values():
        rows = [row for row in comparison.compared if row.verdict == verdict]
        are = (
            (f"is {verdict} than", f"are {verdict} than")
            if verdict in ("better", "worse")
            else (f"({verdict}) beside",) * 2
        )
        if len(rows) <= MOST_SENTENCES:
            lines += [f"{row.label} {are[0]} {base.label}: {_difference(row)}." for row in rows]
        else:
            lines.append(f"{len(rows)} runs {are[1]} {base.label}: {names[verdict]}.")
    if not lines and comparison.compared:
        lines.append(f"No run is shown to be better or worse than {base.label}.")
    if lucky := names.get("within seed luck"):
        assert comparison.seeds is not None
        bound = f"±{comparison.seeds.bound:.4f}, known with {comparison.seeds.freedom} degrees of freedom"
        lines.append(f"Other scores, but by no more than another seed gives ({bound}): {lucky}.")
    if alike := names.get("no difference shown"):
        lines.append(f"No difference shown: {alike}.")
    if left := names.get("not comparable"):
        lines.append(f"Not comparable: {left}.")
    return lines


def _by_verdict(comparison: Comparison) -> dict[str, str]:
    verdicts = dict.fromkeys(row.verdict for row in comparison.rows)
    return {verdict: ", ".join(row.label for row in comparison.rows if row.verdict == verdict) for verdict in verdicts}


def _answer(comparison: Comparison) -> list[str]:
    base = comparison.baseline
    counts = Counter(row.verdict for row in comparison.rows if row is not base)
    tiles = {verdict: str(counts[verdict]) for verdict in MEANINGS if counts[verdict]}
    tiles[f"baseline: {base.label}"] = f"{base.estimate.mean:.4f}"
    said = Html("".join([glance(tiles), *map(text, answer(comparison))]))
    if not comparison.compared:
        return [said]
    caption = "Mean difference to the baseline with its 95% interval over cases"
    caption += "; the band is what another seed alone may give." if comparison.seeds else "."
    return [beside(said, figure(drawings.differences(comparison), caption))]


def _notes(comparison: Comparison) -> list[str]:
    """What is to be said of the choice and of single runs, the first ones at once."""
    notes = [text(f"{note[0].upper()}{note[1:]}.") for note in comparison.notes]
    more = [folded(f"{len(notes) - MOST_NOTES} more", *notes[MOST_NOTES:])] if notes[MOST_NOTES:] else []
    return [section("What to know", *notes[:MOST_NOTES], *more)] if notes else []


def main_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table's rows: name, mean, difference, p, counts, verdict, and the settings that differ."""
    rows = []
    for place, row in enumerate(comparison.rows):
        found = row.difference
        cases = f"{len(row.common)} of {row.estimate.count}" if not row.has_same_cases else f"{row.estimate.count}"
        line = {
            "run": row.label,
            comparison.metric.column: Cell(_number(row.estimate.mean), interval(row.estimate)),
            "difference": None if found is None else Cell(found.estimate.mean, interval(found.estimate, sign=True)),
            "p (Holm)": None if found is None else Cell(row.corrected_p, probability(row.corrected_p)),
            "verdict": _unbroken(row.verdict),
        }
        shown = zip(titles(comparison), comparison.columns, strict=False)
        line |= {title: short_value(column.values[place]) for title, column in shown}
        line["better / worse"] = None if found is None else _counts(found)
        line["cases"] = Cell(len(row.common), cases)
        rows.append(line)
    return rows


def titles(comparison: Comparison) -> list[str]:
    """Return the titles of the settings in the main table, none of them that of another column."""
    names = [column.title for column in comparison.columns[:MOST_COLUMNS]]
    return _apart(names, {*OWN_COLUMNS, comparison.metric.column}, "setting")


def _apart(names: Sequence[str], taken: Collection[str], kind: str) -> list[str]:
    """Names of columns of which none is taken: "verdict (setting)"."""
    return [f"{name} ({kind})" if name in taken else name for name in names]


def _runs(comparison: Comparison) -> str:
    """The table, with names that a desk shows in one line and a telephone in several."""
    rows = main_rows(comparison)
    for row in rows:
        width = f"display:inline-block;min-width:min({min(0.85 * len(row['run']), 24):.0f}ch,28vw)"
        row["run"] = Html(f'<span style="{width}">{escape(row["run"])}</span>')
    return table(rows, name="runs")


def _unbroken(words: str) -> str:
    """Words that stay on one line where they are short, so that rows stay low."""
    return words.replace(" ", "\u00a0") if len(words) <= 26 else words


def _counts(found: Difference) -> Cell:
    equal = f", {found.equal} equal" if found.equal else ""
    return Cell(found.better - found.worse, f"{found.better} / {found.worse}{equal}")


def _all_settings(comparison: Comparison) -> list[str]:
    keys = [(column, key) for column in comparison.columns for key in (column.key, *column.others)]
    if len(keys) <= len(comparison.columns[:MOST_COLUMNS]):
        return []
    settings = [row.entry.shown_settings for row in comparison.rows]
    names = _apart([row.label for row in comparison.rows], {"setting"}, "run")
    rows = [
        {"setting": key, **{name: own.get(key, "–") for name, own in zip(names, settings, strict=True)}}
        for _, key in keys
    ]
    return [folded(f"all {len(keys)} settings that differ", table(rows, name="settings"))]


def _trials(comparison: Comparison) -> list[str]:
    parts: list[str] = []
    for row in comparison.rows:
        if row.entry.trials:
            lines = [
                {
                    "trial": trial.label,
                    comparison.metric.column: trial.mean(comparison.metric.column),
                    "cases": len(trial.scores),
                }
                for trial in row.entry.trials
            ]
            drawn = drawings.parallel(row.entry.trials, comparison.metric)
            pictures = [] if drawn is None else [figure(drawn, LINES)]
            listed = table(lines, name=f"trials of {row.label}")
            parts.append(folded(f"{len(lines)} trials of {row.label}", listed, *pictures))
    return parts


def _pictures(comparison: Comparison, histories: Mapping[str, drawings.History]) -> list[str]:
    caption = "Median, quartiles, whiskers to 1.5 times their distance, and the cases beyond."
    if len(comparison.rows) > drawings.MOST_BOXES:
        caption += f" The first {drawings.MOST_BOXES} of {len(comparison.rows)} runs."
    boxes: str = figure(drawings.spread(comparison), caption)
    if (drawn := drawings.curves(comparison, histories)) is not None:
        words = "Validation over the epochs; folds are averaged."
        if (lines := len(drawings.drawn_lines(comparison))) < len(comparison.rows):
            words += f" The first {lines - 1} of {len(comparison.rows) - 1} runs, and the baseline."
        boxes = beside(figure(drawn, words), boxes)
    sections: list[str] = [section("Curves and spread", boxes)]
    if classes := drawings.by_class(comparison):
        sections.append(section("Classes", beside(*map(figure, classes))))
    if panels := drawings.paired(comparison):
        caption = (
            f"Each dot is a case: above zero its score is higher than that of {comparison.baseline.label}. The line is "
            "the mean difference, the band its interval."
        )
        if len(comparison.compared) > len(panels):
            caption += f" The first {len(panels)} of {len(comparison.compared)} runs."
        sections.append(section("Case by case", beside(*map(figure, panels)), text(caption)))
    if (drawn := drawings.parallel([row.entry for row in comparison.rows], comparison.metric)) is not None:
        sections.append(section("Settings", figure(drawn, LINES)))
    return sections


def _cases(comparison: Comparison, kept: Sequence[Mapping[str, Slice]]) -> list[str]:
    pair = opponents(comparison)
    if pair is None or len(kept) < 2:
        return []
    cases = worst_cases(comparison, pair, kept)
    if not cases:
        return [section("Worst cases", text("The two runs keep no slices of the same cases."))]
    caption = (
        f"The cases that are worst in either run, of {len(kept[0].keys() & kept[1].keys())} that both keep slices of. "
        "Below each picture its score, which for a volume is of all planes. "
        f"From left to right {' and '.join(row.label for row in pair)}; from above {', '.join(cases)}."
    )
    return [section("Worst cases", figure(side_by_side(comparison, pair, kept, cases), caption))]


def _seeds(comparison: Comparison) -> list[str]:
    found = comparison.seeds
    if found is None:
        return []
    named = {
        "another seed moves a mean by": f"{found.deviation:.4f} (standard deviation)",
        "two single runs differ by luck, 19 times of 20, by at most": f"{found.bound:.4f}",
        "known from": f"{found.runs} runs of {found.variants} variant(s), {found.freedom} degrees of freedom",
    }
    return [facts(named)]


def interval(estimate: Estimate, sign: bool = False) -> str:
    """Return "0.9123 [0.9010, 0.9201]", or with a sign "+0.0123 [+0.0010, +0.0201]"."""
    if math.isnan(estimate.mean):
        return "n/a"
    mean, low, high = (f"{value:{'+' if sign else ''}.4f}" for value in (estimate.mean, estimate.low, estimate.high))
    return mean if math.isnan(estimate.low) else f"{mean} [{low}, {high}]"


def probability(p: float) -> str:
    """Return a p value with two digits that say something."""
    return "n/a" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def short_value(value: str, most: int = 28) -> str:
    """Return a setting's value, cut where it is long."""
    return value if len(value) <= most else f"{value[: most - 1]}…"


def _difference(row: Row) -> str:
    assert row.difference is not None
    found = row.difference
    p = probability(row.corrected_p)
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"{interval(found.estimate, sign=True)}, {p}, {found.better} cases better, {found.worse} worse"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
