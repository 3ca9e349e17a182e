"""A comparison in a terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.comparison.comparison import Comparison, Row
from pipeline.comparison.comparison_page import answer, main_rows, titles
from pipeline.errors import plain_cell, visible
from pipeline.pages.page import Cell

STYLES = {"better": "bold blue", "worse": "yellow", "baseline": "bold", "not comparable": "dim"}
MOST_SETTINGS = 3  # columns that still fit beside the numbers
PLAIN_WIDTH = 160  # of a file or a pipe, which has no width of its own


def make_console() -> Console:
    """Return the terminal; where there is none, lines are long enough for every column."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def shown(text: str) -> str:
    """Return a text that a terminal prints as it is: its brackets are no markup, its control characters words."""
    return escape(visible(text))


def print_comparison(console: Console, comparison: Comparison, title: str) -> None:
    """Print what was found, the table, and what is to be said of it."""
    hidden = titles(comparison)[MOST_SETTINGS:]
    rows = [{key: value for key, value in row.items() if key not in hidden} for row in main_rows(comparison)]
    console.print(made_table(title, rows, [STYLES.get(row.verdict, "") for row in comparison.rows]))
    for line in answer(comparison):
        console.print(shown(line))
    for note in comparison.notes:
        console.print(f"[yellow]note:[/yellow] {shown(note)}")
    if hidden:
        console.print(f"{len(hidden)} more settings differ: see the page or the CSV")


def made_table(title: str, rows: Sequence[Mapping[str, Any]], styles: Sequence[str] = ()) -> Table:
    """Return rows as a table of a terminal.

    Args:
        title: above it.
        rows: values by column; all have the same columns.
        styles: one for each row.
    """
    table = Table(title=shown(title), title_justify="left", title_style="bold")
    for name in rows[0] if rows else []:
        is_number = any(isinstance(row[name], Cell | int | float) for row in rows)
        table.add_column(shown(name), justify="right" if is_number else "left", overflow="fold")
    for place, row in enumerate(rows):
        style = styles[place] if styles else ""
        table.add_row(*(shown(_text(value)) for value in row.values()), style=style)
    return table


def comparison_csv(comparison: Comparison) -> str:
    """Return the comparison as CSV: a row per run, every number in full, every setting that differs."""
    keys = [key for column in comparison.columns for key in (column.key, *column.others)]
    rows = [{**_numbers(row, comparison), **_settings(row, keys)} for row in comparison.rows]
    return made_csv(list(rows[0]), [list(row.values()) for row in rows])


def cases_csv(comparison: Comparison) -> str:
    """Return the scores of all cases as CSV: a row per case, a column per run, an empty field for n/a."""
    cases = sorted({case for row in comparison.rows for case in row.entry.scores})
    column = comparison.metric.column
    lines = [[case, *(row.entry.scores.get(case, {}).get(column) for row in comparison.rows)] for case in cases]
    return made_csv(["case", *(row.label for row in comparison.rows)], lines)


def made_csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Return lines as CSV; None and nan are empty. Two columns may have one name, for a run may be called "case".

    No text is one that a spreadsheet would compute: see `plain_cell`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return plain_cell(value) if isinstance(value, str) else value


def _numbers(row: Row, comparison: Comparison) -> dict[str, Any]:
    found = row.difference
    numbers: dict[str, Any] = {
        "run": row.label,
        "run_id": row.entry.run.id,
        "split": comparison.metric.split,
        "metric": comparison.metric.column,
        "mean": row.estimate.mean,
        "low": row.estimate.low,
        "high": row.estimate.high,
        "cases": row.estimate.count,
        "not_applicable": row.not_applicable,
        "common_cases": len(row.common),
        "difference": None if found is None else found.estimate.mean,
        "difference_low": None if found is None else found.estimate.low,
        "difference_high": None if found is None else found.estimate.high,
        "p": None if found is None else found.p,
        "p_holm": row.corrected_p,
        "better": None if found is None else found.better,
        "worse": None if found is None else found.worse,
        "equal": None if found is None else found.equal,
        "verdict": row.verdict,
        "remarks": "; ".join(row.remarks),
    }
    return numbers


def _settings(row: Row, keys: Sequence[str]) -> dict[str, str | None]:
    own = row.entry.shown_settings
    return {f"params.{key}": own.get(key) for key in keys}


def _text(value: Any) -> str:
    if isinstance(value, Cell):
        return value.text
    return "n/a" if value is None or value != value else f"{value:.4f}" if isinstance(value, float) else str(value)
