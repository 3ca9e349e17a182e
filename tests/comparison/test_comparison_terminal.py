"""Names in a terminal and in CSV files are names: they move no cursor, and no spreadsheet computes them."""

import csv
import io

import pytest
from made_entries import compared, entry
from rich.console import Console

from pipeline.comparison.terminal import cases_csv, comparison_csv, made_csv, made_table, print_comparison, shown

ODD = "=HYPERLINK(1)\x1b[2J\x1b]0;owned\x07"
IN_WORDS = r"=HYPERLINK(1)\x1b[2J\x1b]0;owned\x07"


@pytest.fixture
def comparison():
    """Of two runs, one of them with a name and a setting that would do something."""
    return compared(entry("plain", [0.5, 0.6, 0.7], lr=-1.5), entry(ODD, [0.6, 0.7, 0.8], lr="@x", **{ODD: ODD}))


def printed(*arguments):
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    print_comparison(console, *arguments) if len(arguments) > 1 else console.print(*arguments)
    return console.file.getvalue()


def test_a_terminal_shows_names_in_words(comparison):
    text = printed(comparison, f"title {ODD}")
    assert not [letter for letter in text if not letter.isprintable() and letter not in "\n\xa0"]
    assert text.count(IN_WORDS) > 2
    assert shown("[bold]\x1b") == r"\[bold]\x1b"
    assert "two\\nlines" in printed(made_table("t", [{"name": "two\nlines"}]))


def test_no_cell_of_a_csv_file_is_computed_and_numbers_stay_numbers(comparison):
    for text in (comparison_csv(comparison), cases_csv(comparison)):
        cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
        assert f"'{IN_WORDS}" in cells
        assert not [cell for cell in cells if cell[:1] in "=+@" and cell]
        assert "\x1b" not in text
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert {row["params.lr"] for row in rows} == {"-1.5", "'@x"}
    assert made_csv(["-a", "b"], [[-1.5, "-1.5"], [None, float("nan")]]) == "'-a,b\n-1.5,-1.5\n,\n"
