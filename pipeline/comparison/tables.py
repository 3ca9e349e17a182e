"""Tables of cases, read: the scores by case, and of which files they are."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.errors import InputError

Scores = Mapping[str, Mapping[str, float]]  # by case, then by name


class Table(NamedTuple):
    """A `cases.csv`: scores by case and name, nan where n/a, and the digest of a case's files where it is known."""

    scores: Scores
    contents: Mapping[str, str]


def read_table(content: bytes) -> Table:
    """Return what a `cases.csv` says; a damaged one is an InputError."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
        if "case" not in (reader.fieldnames or ()):
            raise ValueError("no column 'case'")
        rows = list(reader)
        if any(row["case"] is None for row in rows):
            raise ValueError("a row is cut short")
        contents = {row["case"]: digest for row in rows if (digest := row.pop("data", ""))}
        return Table({row.pop("case"): {name: _number(text) for name, text in row.items()} for row in rows}, contents)
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"its table of cases is damaged ({type(error).__name__}: {error})") from error


def _number(text: str) -> float:
    if text is None:
        raise ValueError("a row is cut short")
    return float(text) if text else math.nan
