"""The page on a data list: it says everything, needs nothing, and what it names does no harm."""

import re
from html.parser import HTMLParser

import pytest
from test_data_figures import fingerprint

from pipeline.data_report import count_splits, data_page, number, write_report
from pipeline.datalists.check import Report
from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.fingerprint import ClassVolume
from pipeline.errors import InputError

EVIL = '<script>alert(1)</script><img src="x" onerror="alert(2)">'


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of each cell of each table."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.words, self.in_cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data


def report(problems=(), warnings=(), fingerprints=(), **changes):
    fields = {
        "name": "livers",
        "dataset_dir": "data/livers",
        "splits": {"a": "training", "b": "validation", "c": "test"},
        "labelled": 2,
        "with_foreground": 1,
        "unchanged": 0,
    }
    return Report(**(fields | changes), problems=problems, warnings=warnings, fingerprints=fingerprints)


def data_list(**changes):
    words = {"name": "livers", "description": "CT", "licence": "CC0", "source": "here", "made_by": "me"}
    cases = (Case("a", "a.nii.gz", fold=0),)
    rest = {"spatial_dims": 3, "label_kind": "classes", "classes": ("background", "liver"), "channels": ("CT",)}
    return DataList(**(words | rest | changes), cases=cases)


def test_the_page_shows_problems_first_then_measures_then_cases():
    problem = InputError(
        "is odd", case="b", file="data/livers/images/b.nii.gz", remedy="mend data/livers/images/b.nii.gz"
    )
    warning = InputError("no label holds 'x'", remedy="look")
    shown = Page(data_page(report([problem], [warning], [fingerprint("a")]), data_list()))
    findings, size, *_, cases = shown.tables
    assert findings[1:] == [
        ["problem", "b", "is odd", "mend images/b.nii.gz", "images/b.nii.gz"],
        ["warning", "", "no label holds 'x'", "look", ""],
    ]
    assert size[1] == ["left to right", "10", "10", "10"]
    heads = ["case", "split", "findings", "size", "spacing (mm)", "axes", "format"]
    assert cases[0] == [*heads, "CT median", "liver (ml)", "foreground (%)"]
    assert cases[1] == [
        "a",
        "training",
        "",
        "10 × 20 × 30",
        "1 × 2 × 3",
        "RAS",
        "NIfTI int16",
        "40",
        "0.1800",
        "0.5000",
    ]
    assert cases[2:] == [["b", "validation", "1 problem", *["n/a"] * 7], ["c", "test", "", *["n/a"] * 7]]
    text = " ".join(shown.words)
    assert text.index("What is wrong") < text.index("What the cases measure") < text.index("Cases")


def test_totals():
    text = data_page(report([InputError("x")] * 2, [InputError("y")]), data_list())
    assert re.findall(r"<b>(\d+)</b><span>(.*?)</span>", text) == [
        ("2", "problems"),
        ("1", "warning"),
        ("3", "cases: 1 training, 1 validation, 1 test"),
        ("2", "with a label"),
        ("1", "of these with foreground"),
    ]


def test_a_sound_list_says_so():
    text = data_page(report(), data_list())
    assert "Nothing is wrong, and nothing is odd." in text
    assert "<b>0</b><span>problems</span>" in text


def test_names_do_no_harm():
    """Every name that a user or a downloaded list gives is text; the only script is the page's own."""
    bad = InputError(f"says {EVIL}", case=EVIL, file=EVIL, remedy=EVIL)
    numbers = fingerprint(
        EVIL, classes=(ClassVolume("background", 9, 1), ClassVolume(EVIL, 9, 1)), axcodes="RAS", dtype=EVIL
    )
    listed = data_list(
        name=EVIL, description=EVIL, licence=EVIL, source=EVIL, channels=(EVIL,), classes=("background", EVIL)
    )
    evil = report([bad], [bad], [numbers], name=EVIL, dataset_dir=EVIL, splits={EVIL: "training"})
    text, plain = (
        data_page(evil, listed),
        data_page(report([InputError("x")], [InputError("y")], [fingerprint("a")]), data_list()),
    )
    found, expected = Page(text), Page(plain)
    for tag in ("script", "img", "table"):
        assert [name for name, _ in found.elements].count(tag) == [name for name, _ in expected.elements].count(tag)
    assert not [values for _, values in found.elements if any(key.startswith("on") for key in values)]
    assert found.tables[0][1][1] == EVIL


def test_the_page_needs_nothing_else():
    shown = Page(data_page(report(fingerprints=[fingerprint("a")]), data_list(source="https://example.org/x")))
    sources = [values[key] for _, values in shown.elements for key in ("src", "href") if key in values]
    assert sources
    assert all(source.startswith(("data:", "#s")) for source in sources)
    (policy,) = [values["content"] for _, values in shown.elements if "http-equiv" in values]
    assert policy.startswith("default-src 'none'")
    assert all(values["alt"] for tag, values in shown.elements if tag == "img")


def test_a_page_is_written_as_utf_8(tmp_path):
    write_report(report(), data_list(description="größer, 漢字, \udcff"), tmp_path / "pages" / "livers.html")
    assert "größer, 漢字, ?" in (tmp_path / "pages" / "livers.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (0.123456, "0.1235"), (123456.7, "123457"), (1e-7, "1e-07"), (2e12, "2e+12")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_splits_are_counted_in_their_order():
    assert count_splits(["test", "training", "test"]) == "1 training, 2 test"
