"""The page on a data list: what is wrong, what the cases measure, and a row for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from os import PathLike
from typing import Any

from matplotlib.colors import to_rgb

from pipeline import __version__
from pipeline.data_figures import MOST_PANELS, Quantity, histograms, quantities
from pipeline.datalists.check import Report
from pipeline.datalists.datalist import SPLITS, DataList
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.errors import InputError
from pipeline.pages.page import Html, beside, facts, figure, glance, legend, page, section, subheading, table, text
from pipeline.volumes.atomic import atomic_write_text

FINDINGS = ("kind", "case", "what", "what to do", "file")


def write_report(report: Report, data_list: DataList, file: str | PathLike[str]) -> None:
    """Write one HTML file that needs no other file and no network.

    Args:
        report: what a check saw.
        data_list: the list that was checked.
        file: where the page goes, by rename.
    """
    written = data_page(report, data_list).encode(errors="replace")  # a file's name may have bytes that are no text
    atomic_write_text(file, written.decode())


def data_page(report: Report, data_list: DataList) -> Html:
    """Return the page."""
    measured = quantities(report.fingerprints)
    figures = [part for quantity in measured for part in _figures(quantity)] or [text("No case could be read.")]
    rows, columns = _cases(report, data_list)
    sections = [
        section("What is wrong", glance(_counts(report)), _findings(report)),
        section("What the cases measure", *figures),
        section("Cases", table(rows, columns, name="cases")),
        section("The list", facts(_facts(report, data_list))),
    ]
    made = f"data check by pipeline {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return page(data_list.name, sections, made)


def number(value: float) -> str:
    """Return a number as a reader likes it: 4 digits, and whole or large ones without decimals."""
    plain = float(value).is_integer() or abs(value) >= 1e4
    return f"{value:.0f}" if plain and abs(value) < 1e9 else f"{value:.4g}"


def count_splits(splits: Iterable[str]) -> str:
    """Count cases by split: "160 training, 40 validation"."""
    counted = Counter(splits)
    return ", ".join(f"{counted[split]} {split}" for split in SPLITS if counted[split])


def _facts(report: Report, data_list: DataList) -> dict[str, str]:
    named = {
        "description": data_list.description,
        "folder": report.dataset_dir,
        "classes": ", ".join(data_list.classes),
        "channels": ", ".join(data_list.channels),
        "source": data_list.source,
        "licence": data_list.licence,
    }
    return {name: words for name, words in named.items() if words}


def _counts(report: Report) -> dict[str, str]:
    problems, warnings = len(report.problems), len(report.warnings)
    return {
        "problem" if problems == 1 else "problems": str(problems),
        "warning" if warnings == 1 else "warnings": str(warnings),
        f"cases: {count_splits(report.splits.values())}": str(report.cases),
        "with a label": str(report.labelled),
        "of these with foreground": str(report.with_foreground),
    }


def _findings(report: Report) -> Html:
    kinds = [("problem", error) for error in report.problems] + [("warning", error) for error in report.warnings]
    if not kinds:
        return text("Nothing is wrong, and nothing is odd.")
    rows = [_finding(kind, error, report.dataset_dir) for kind, error in kinds]
    return table(rows, FINDINGS, name="findings", stacked=True)


def _finding(kind: str, error: InputError, folder: str) -> dict[str, str]:
    """A row; files are named from the folder on, which the page says."""
    what = [(cell or "").replace(f"{folder.rstrip('/')}/", "") for cell in (error.reason, error.remedy, error.file)]
    return dict(zip(FINDINGS, (kind, error.case or "", *what), strict=True))


def _figures(quantity: Quantity) -> list[Html]:
    used = {name for panel in quantity.panels for name, values in panel.series.items() if values}
    colours = {name: to_rgb(colour) for name, colour in quantity.colours.items() if name in used}
    unit = f" ({quantity.unit})" if quantity.unit else ""
    columns = ("of", "smallest", "median", "largest")
    rows = [dict(zip(columns, (name, *map(_rounded, values)), strict=True)) for name, *values in quantity.rows]
    drawn = [figure(picture, panel.name) for picture, panel in zip(histograms(quantity), quantity.panels, strict=False)]
    left_out = len(quantity.panels) - MOST_PANELS
    note = [text(f"{left_out} more are in the table only.")] if left_out > 0 else []
    title = f"{quantity.title}{unit}"
    return [
        subheading(title),
        legend(colours),
        beside(*drawn, least=240, most=360),
        *note,
        table(rows, columns, name=title),
    ]


def _rounded(value: float) -> float:
    """A number of 4 digits, whole where it has no more."""
    shown = float(number(value))
    return int(shown) if shown.is_integer() else shown


def _cases(report: Report, data_list: DataList) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and the names of their columns."""
    wrong = Counter(error.case for error in report.problems)
    odd = Counter(error.case for error in report.warnings)
    seen = {case.case: case for case in report.fingerprints}
    labelled = next((case for case in report.fingerprints if case.classes), None)
    measured = labelled is not None and all(volume.ml is not None for volume in labelled.classes or ())
    columns = ["case", "split", "findings", "size", "spacing (mm)", "axes", "format"]
    columns += [f"{name} median" for name in data_list.channels]
    columns += [f"{name}{' (ml)' if measured else ''}" for name in data_list.classes[1:]] + ["foreground (%)"]
    rows = []
    for case, split in report.splits.items():
        words = [f"{n} {kind}{'s' * (n > 1)}" for n, kind in ((wrong[case], "problem"), (odd[case], "warning")) if n]
        measures = _measures(seen[case], data_list, measured) if case in seen else [None] * (len(columns) - 3)
        rows.append(dict(zip(columns, [case, split, ", ".join(words), *measures], strict=True)))
    return rows, columns


def _measures(case: Fingerprint, data_list: DataList, measured: bool) -> Sequence[Any]:
    spacing = None if case.spacing is None else " × ".join(map(number, case.spacing))
    volumes = [volume.ml if measured else volume.voxels for volume in (case.classes or ())[1:]]
    return [
        " × ".join(map(str, case.shape)),
        spacing,
        case.axcodes,
        f"{case.format} {case.dtype}",
        *(channel.median for channel in case.channels),
        *(volumes or [None] * (len(data_list.classes) - 1)),
        None if case.foreground is None else 100 * case.foreground,
    ]
