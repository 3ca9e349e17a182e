"""The page on a data list: what is wrong, what the cases measure, and a row for each."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from os import PathLike

from pipeline import __version__
from pipeline.data_figures import MOST_PANELS, Quantity, histograms, quantities
from pipeline.datalists.check import Report
from pipeline.datalists.datalist import SPLITS, DataList
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_write_text

Cell = str | int | float | None  # text sorts by letters, numbers by size, None last


def write_report(report: Report, data_list: DataList, file: str | PathLike[str]) -> None:
    """Write one HTML file that needs no other file and no network.

    Args:
        report: what a check saw.
        data_list: the list that was checked.
        file: where the page goes, by rename.
    """
    atomic_write_text(file, page(report, data_list))


def page(report: Report, data_list: DataList) -> str:
    """Return the page; every name in it is escaped, and its policy lets it load nothing."""
    measured = quantities(report.fingerprints)
    template = files("pipeline").joinpath("data_report.html").read_text(encoding="utf-8")
    parts = {
        "name": _text(data_list.name),
        "facts": _facts(report, data_list),
        "cards": _cards(report),
        "findings": _findings(report),
        "figures": "".join(_figure(quantity) for quantity in measured) or "<p>No case could be read.</p>",
        "cases": _case_table(report, data_list),
        "made": f"pipeline {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }
    pieces = template.split("%%")  # text, part, text, part, ..., text: what is put in is not looked through again
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def number(value: float) -> str:
    """Return a number as a reader likes it: 4 digits, and whole or large ones without decimals."""
    plain = float(value).is_integer() or abs(value) >= 1e4
    return f"{value:.0f}" if plain and abs(value) < 1e9 else f"{value:.4g}"


def count_splits(splits: Iterable[str]) -> str:
    """Count cases by split: "160 training, 40 validation"."""
    counted = Counter(splits)
    return ", ".join(f"{counted[split]} {split}" for split in SPLITS if counted[split])


def _facts(report: Report, data_list: DataList) -> str:
    facts = {
        "": data_list.description,
        "Folder": report.dataset_dir,
        "Classes": ", ".join(data_list.classes),
        "Channels": ", ".join(data_list.channels),
        "Source": data_list.source,
        "Licence": data_list.licence,
    }
    return "".join(
        f"<p>{f'<b>{title}</b> ' if title else ''}{_text(words)}</p>" for title, words in facts.items() if words
    )


def _cards(report: Report) -> str:
    problems, warnings = len(report.problems), len(report.warnings)
    cards = [
        ("bad" if problems else "good", str(problems), "problem" if problems == 1 else "problems"),
        ("odd" if warnings else "good", str(warnings), "warning" if warnings == 1 else "warnings"),
        ("", str(report.cases), f"cases: {count_splits(report.splits.values())}"),
        ("", str(report.labelled), "with a label"),
        ("", str(report.with_foreground), "of these with foreground"),
    ]
    return "".join(
        f'<div class="card {kind}"><b>{count}</b><span>{_text(words)}</span></div>' for kind, count, words in cards
    )


def _findings(report: Report) -> str:
    kinds = [("problem", error) for error in report.problems] + [("warning", error) for error in report.warnings]
    if not kinds:
        return '<p class="sound">Nothing is wrong, and nothing is odd.</p>'
    rows = "".join(_finding(kind, error, report.dataset_dir) for kind, error in kinds)
    heads = "".join(f"<th>{head}</th>" for head in ("", "case", "what", "what to do", "file"))
    table = f'<table class="findings"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _finding(kind: str, error: InputError, folder: str) -> str:
    """A row; files are named from the folder on, which the page has said."""
    cells = [(cell or "").replace(f"{folder.rstrip('/')}/", "") for cell in (error.reason, error.remedy, error.file)]
    words = "".join(f"<td>{_text(cell)}</td>" for cell in (error.case or "", *cells))
    return f'<tr><td><i class="{kind}">{kind}</i></td>{words}</tr>'


def _figure(quantity: Quantity) -> str:
    pictures = "".join(
        f'<img alt="Histogram: {quantity.title}, {_text(panel.name)}" src="data:image/svg+xml;base64,{coded}">'
        for panel, coded in zip(quantity.panels, _coded(histograms(quantity)), strict=False)
    )
    keys = {
        name: colour for name, colour in quantity.colours.items() if any(p.series.get(name) for p in quantity.panels)
    }
    legend = "".join(f'<span><i style="background:{colour}"></i>{_text(name)}</span>' for name, colour in keys.items())
    rows = "".join(
        f"<tr><td>{_text(name)}</td>" + "".join(f"<td>{number(value)}</td>" for value in values) + "</tr>"
        for name, *values in quantity.rows
    )
    heads = "".join(f"<th>{head}</th>" for head in ("", "smallest", "median", "largest"))
    left_out = len(quantity.panels) - MOST_PANELS
    note = f"<p>{left_out} more are in the table only.</p>" if left_out > 0 else ""
    unit = f" ({quantity.unit})" if quantity.unit else ""
    return (
        f'<figure><figcaption><h3>{quantity.title}{unit}</h3><div class="legend">{legend}</div></figcaption>'
        f'<div class="side"><div class="panels">{pictures}</div>'
        f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{note}</figure>'
    )


def _coded(pictures: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(picture).decode() for picture in pictures]


def _case_table(report: Report, data_list: DataList) -> str:
    wrong = Counter(error.case for error in report.problems)
    odd = Counter(error.case for error in report.warnings)
    numbers = {case.case: case for case in report.fingerprints}
    labelled = next((case for case in report.fingerprints if case.classes), None)
    measured = labelled is not None and all(volume.ml is not None for volume in labelled.classes or ())
    heads = ["case", "split", "findings", "size", "spacing (mm)", "axes", "format"]
    heads += [f"{name} median" for name in data_list.channels]
    heads += [f"{name}{' (ml)' if measured else ''}" for name in data_list.classes[1:]] + ["foreground (%)"]
    table: list[list[Cell]] = []
    for case, split in report.splits.items():
        words = [f"{n} {kind}{'s' * (n > 1)}" for n, kind in ((wrong[case], "problem"), (odd[case], "warning")) if n]
        measures = _numbers(numbers[case], data_list, measured) if case in numbers else [None] * (len(heads) - 3)
        table.append([case, split, ", ".join(words), *measures])
    decimals = [
        _decimals([cell for cell in column if isinstance(cell, int | float)]) for column in zip(*table, strict=True)
    ]
    rows = ["<tr>" + "".join(map(_cell, cells, decimals)) + "</tr>" for cells in table]
    head = "".join(f'<th><button type="button">{_text(name)}</button></th>' for name in heads)
    return f'<table id="cases"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _decimals(values: Sequence[float]) -> int:
    """How many a column needs for 4 digits of its largest number."""
    most = max(map(abs, values), default=0)
    whole = all(float(value).is_integer() for value in values)
    return 0 if whole or not most else min(max(3 - math.floor(math.log10(most)), 0), 6)


def _numbers(case: Fingerprint, data_list: DataList, measured: bool) -> Sequence[Cell]:
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


def _cell(value: Cell, decimals: int) -> str:
    if isinstance(value, str):
        return f"<td>{_text(value)}</td>"
    return "<td></td>" if value is None else f'<td class="n" data-n="{value!r}">{value:.{decimals}f}</td>'


def _text(words: str) -> str:
    return escape(words).encode(errors="replace").decode()  # a file's name may have bytes that are no text
