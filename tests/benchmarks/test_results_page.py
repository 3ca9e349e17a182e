"""The page of the benchmarks judges each figure by its goal, on the right side of it."""

import pytest
from results_page import drawn_page, is_met, reached

KEPT = {"unit": "times", "command": "python benchmarks/x.py", "machine": "m", "date": "2026-01-01"}


@pytest.mark.parametrize(
    ("ratio", "goals", "met", "times"),
    [
        (3.0, {"at_least": 2}, True, 1.5),
        (1.0, {"at_least": 2}, False, 0.5),
        (1.2, {"at_least": None, "at_most": 1.5}, True, 1.25),
        (3.0, {"at_least": None, "at_most": 1.5}, False, 0.5),
    ],
)
def test_goals(ratio, goals, met, times):
    entry = {"name": "x", "ratio": ratio, **goals, **KEPT}
    assert is_met(entry) is met
    assert reached(entry) == pytest.approx(times)


def test_the_page_counts_what_is_reached():
    entries = [
        {"name": "fast $x$", "ratio": 3.0, "at_least": 2, **KEPT},
        {"name": "slow", "ratio": 1.0, "at_least": 2, **KEPT},
        {"name": "only told", "ratio": 7.0, "at_least": None, **KEPT},
        {
            "name": "flat",
            "ratio": 1.1,
            "at_least": None,
            "at_most": 1.15,
            "curve": {"n": [1, 10], "s": [1.0, 1.1]},
            **KEPT,
        },
    ]
    page = drawn_page(entries)
    assert "2 of 3 goals are reached" in page
    assert "no goal" in page
    assert "at most 1.15" in page
