"""The page on a data list, opened on a screen and on a telephone."""

import pytest

from pipeline.data_report import write_report
from pipeline.datalists.check import Report
from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.fingerprint import ClassVolume, Fingerprint, Intensities
from pipeline.errors import InputError

LONG = "images/a_name_without_any_space_" * 6
INSIDE = """(() => [...document.querySelectorAll("%s")].every(box => {
  const place = box.getBoundingClientRect();
  return place.left >= 0 && place.right <= innerWidth;
}))()"""
TOPS = "[...document.querySelectorAll('#s2 .beside:first-of-type img')].map(box => box.getBoundingClientRect().top)"


@pytest.fixture
def file(tmp_path):
    """Two sound cases, and one with a problem whose file has a long name."""
    classes = (ClassVolume("background", 5970, 35.82), ClassVolume("liver", 30, 0.18))
    channels = (Intensities("CT", -1000, -900, 40, 300, 2000, 0, 1),)
    measured = ((10, 20, 30), (1.0, 2.0, 3.0), "RAS", channels, classes)
    numbers = tuple(Fingerprint(case, "training", "NIfTI", "int16", *measured) for case in "ab")
    problem = InputError("is truncated " * 9, case="c", file=LONG, remedy="fetch the file again from its source")
    splits = {"a": "training", "b": "training", "c": "test"}
    report = Report("livers", "data", splits, 3, 2, numbers, (problem,), (), 0)
    cases = (Case("a", "a.nii.gz", fold=0),)
    listed = DataList("livers", "CT", "CC0", "here", "me", 3, "classes", ("background", "liver"), ("CT",), cases)
    write_report(report, listed, tmp_path / "page.html")
    return tmp_path / "page.html"


@pytest.mark.parametrize("width", [1200, 400])
def test_reason_remedy_and_file_stand_on_the_screen(chromium, file, width):
    chromium.open(file, width=width, touch=width == 400)
    assert chromium.value("document.querySelectorAll('[data-name=findings] td').length") == 5
    assert chromium.value(INSIDE % "[data-name=findings] td")
    assert chromium.value(INSIDE % "figure img")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.problems == []


def test_histograms_stand_side_by_side_or_below_each_other(chromium, file):
    chromium.open(file, width=1200)
    assert len(set(chromium.value(TOPS))) == 1
    chromium.open(file, width=400, touch=True)
    cells = "[...document.querySelectorAll('[data-name=findings] td')].map(cell => cell.getBoundingClientRect().width)"
    assert min(chromium.value(cells)) > 350  # so do a problem's reason, remedy and file
    tops = chromium.value(TOPS)
    assert len(set(tops)) == len(tops) == 3
    widths = "[...document.querySelectorAll('#s2 .beside:first-of-type img')].map(box => box.width)"
    assert min(chromium.value(widths)) >= 300
