"""What the page says: sentences, the table, numbers as they are read."""

import base64
import math
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from made_entries import BASE, compared, entry

from pipeline.comparison.choice import Metric
from pipeline.comparison.comparison import compare_entries
from pipeline.comparison.comparison_page import (
    MOST_COLUMNS,
    MOST_NOTES,
    answer,
    comparison_page,
    interval,
    main_rows,
    probability,
    short_value,
    titles,
)
from pipeline.comparison.entries import Entry
from pipeline.comparison.side_by_side import opponents, side_by_side
from pipeline.comparison.statistics import Estimate
from pipeline.slices import Slice


@pytest.mark.parametrize(
    ("estimate", "plain", "signed"),
    [
        (Estimate(0.91234, 0.9, 0.92006, 5), "0.9123 [0.9000, 0.9201]", "+0.9123 [+0.9000, +0.9201]"),
        (Estimate(-0.01, -0.02, 0.0, 5), "-0.0100 [-0.0200, 0.0000]", "-0.0100 [-0.0200, +0.0000]"),
        (Estimate(0.5, math.nan, math.nan, 1), "0.5000", "+0.5000"),
        (Estimate(math.nan, math.nan, math.nan, 0), "n/a", "n/a"),
    ],
)
def test_an_estimate_in_words(estimate, plain, signed):
    assert interval(estimate) == plain
    assert interval(estimate, sign=True) == signed


@pytest.mark.parametrize(
    ("p", "words"),
    [(math.nan, "n/a"), (9e-5, "<0.0001"), (0.000123, "0.00012"), (0.0456, "0.046"), (0.1, "0.10"), (0.567, "0.57")],
)
def test_a_probability_with_two_digits_that_say_something(p, words):
    assert probability(p) == words


def test_a_long_value_is_cut_to_its_length():
    assert short_value("abcdef", 6) == "abcdef"
    assert short_value("abcdefg", 6) == "abcde…"


def test_sentences_tell_better_worse_equal_and_not_comparable():
    apart = Entry("apart", entry("apart", []).run, (entry("apart", []).run,), {"other": {"mean_dice": 0.5}})
    said = answer(
        compared(entry("base", BASE), entry("up", BASE + 0.02), entry("down", BASE - 0.02), entry("same", BASE), apart)
    )
    # Twelve equal signs: p = 2 / 2^12 = 0.00049, times 3 (Holm) is 0.0015, and the second no less.
    assert said == [
        "up is better than base: +0.0200 [+0.0200, +0.0200], p = 0.0015, 12 cases better, 0 worse.",
        "down is worse than base: -0.0200 [-0.0200, -0.0200], p = 0.0015, 0 cases better, 12 worse.",
        "No difference shown: same.",
        "Not comparable: apart.",
    ]


def test_many_better_runs_are_one_sentence():
    better = [entry(f"up {n}", BASE + 0.01 * n) for n in range(1, 6)]
    assert answer(compared(entry("base", BASE), *better)) == [
        "5 runs are better than base: up 5, up 4, up 3, up 2, up 1."
    ]


def test_luck_of_the_seed_is_said_with_its_bound():
    seeds = [entry(name, BASE + 0.02 * n, seed=n) for n, name in enumerate(("base", "twin", "third"))]
    # s = 0.02 with two degrees of freedom: 4.302653 sqrt(2) s = 0.1217.
    assert answer(compared(*seeds)) == [
        "No run is shown to be better or worse than base.",
        "Other scores, but by no more than another seed gives (±0.1217, known with 2 degrees of freedom): third, twin.",
    ]


def test_a_verdict_that_test_and_mean_divide_is_a_sentence():
    base, moves = np.full(22, 0.8), np.concatenate([np.linspace(0.004, 0.006, 20), [-0.5, -0.6]])
    (said,) = answer(compared(entry("base", base), entry("odd", base + moves)))
    assert said.startswith("odd (most cases better, mean worse) beside base: -0.0455 [")
    assert said.endswith("20 cases better, 2 worse.")


def test_the_table_has_numbers_to_sort_by_and_the_first_settings():
    # Setting n of run i is bit i of n: seven settings, each of which divides the four runs in another way.
    bits = [{f"setting_{n}": "yx"[n >> i & 1] * 40 for n in range(1, MOST_COLUMNS + 3)} for i in range(4)]
    scores = {"base": BASE, "fewer": BASE[:6] + 0.1, "c": BASE, "d": BASE}
    entries = [entry(name, values, **own) for (name, values), own in zip(scores.items(), bits, strict=True)]
    rows = {row["run"]: row for row in main_rows(compared(*entries))}
    assert rows["base"]["difference"] is None
    assert rows["base"]["mean_dice"].value == pytest.approx(0.75)
    assert rows["base"]["cases"].text == "12"
    assert rows["fewer"]["difference"].value == pytest.approx(0.1)
    assert rows["fewer"]["cases"].text == "6 of 6"
    assert rows["fewer"]["better / worse"].text == "6 / 0"
    assert rows["c"]["better / worse"].text == "0 / 0, 12 equal"
    assert rows["base"]["verdict"] == "baseline"
    settings = [value for name, value in rows["d"].items() if name.startswith("setting_")]
    assert settings == ["y" * 27 + "…"] * MOST_COLUMNS


@pytest.fixture(scope="module")
def page():
    """A page with everything on it, and names that are HTML."""
    square = np.zeros((8, 8), np.uint8)
    kept = {f"case_{n}": Slice(score, square, square, square) for n, score in enumerate(BASE)}
    entries = [
        entry(name, BASE + by, epochs=6 + round(100 * by), width=name)
        for name, by in (("plain", 0), ("<b>long</b>", 0.03), ("a", 0.01), ("b", 0.0))
    ]
    histories = {one.run.id: [(epoch, 0.1 * epoch) for epoch in range(1, 6)] for one in entries}
    return comparison_page(compared(*entries), "cells", histories, [kept, kept], "2026-01-02 03:04")


def test_settings_and_runs_called_like_a_column_keep_their_own():
    named = [
        entry(name, BASE, run=n, cases=n % 3, **{"p (Holm)": n // 2})
        for n, name in enumerate(("setting", "b", "c", "d"))
    ]
    found = compared(*named)
    (row,) = (row for row in main_rows(found) if row["run"] == "setting")
    assert (row["cases"].text, row["run (setting)"]) == ("12", "0")
    assert titles(found) == ["run (setting)", "cases (setting)", "p (Holm) (setting)"]
    more = [entry(name, BASE, a=n, b=n, c=n % 2) for n, name in enumerate(("setting", "other", "third"))]
    page = comparison_page(compared(*more), "cells", {}, [], "now")
    assert ">setting (run)</button>" in page
    assert re.search(r"<tr><td>b</td><td[^>]*>0</td>", page)


@pytest.mark.parametrize("name", ["$lr$ $x^$ \\frac{", "細胞 よい", "case"])
def test_any_name_is_drawn_as_it_is(name):
    square = np.zeros((8, 8), np.uint8)
    others = [entry(f"{name} {n}", BASE + 0.01 * n, lr=f"{name}{n}", epochs=n % 3) for n in range(4)]
    renamed = [
        replace(
            one,
            scores={f"{name}{case}": {**row, f"dice/{name}": 0.5, "dice/b": 0.4} for case, row in one.scores.items()},
        )
        for one in others
    ]
    kept = {case: Slice(0.5, square, square, square) for case in renamed[0].scores}
    histories = {one.run.id: [(1, 0.1), (2, 0.2)] for one in renamed}
    page = comparison_page(compared(*renamed), name, histories, [kept, kept], "now")
    drawn = [base64.b64decode(code).decode() for code in re.findall('svg\\+xml;base64,([^"]*)', page)]
    assert sum(escape(name, quote=False) in picture for picture in drawn) == 9, (
        "all but two without names, and the last"
    )
    assert f"From left to right {escape(name)} 0 and {escape(name)} 3" in page


def test_names_that_a_picture_has_no_letters_for_stand_beside_it():
    found = compared(entry("細胞", BASE), entry("plain", BASE + 0.1))
    square = np.zeros((4, 4), np.uint8)
    kept = {"case_0": Slice(0.5, square, square, square)}
    drawn = side_by_side(found, opponents(found), [kept, kept], ["case_0"])
    assert [axes.get_title() for axes in drawn.axes[2:4]] == ["the baseline", "plain"]


def test_of_many_runs_the_caption_says_how_many_have_curves():
    entries = [entry(f"run {n}", BASE + 0.01 * n) for n in range(13)]
    histories = {one.run.id: [(1, 0.1), (2, 0.2)] for one in entries}
    said = "Validation over the epochs; folds are averaged."
    page = comparison_page(compared(*entries), "cells", histories, [], "now")
    assert f"{said} The first 10 of 12 runs, and the baseline." in page
    page = comparison_page(compared(*entries[:11]), "cells", histories, [], "now")
    assert f"{said}</figcaption>" in page


def test_the_trials_of_a_folded_sweep_have_lines_through_their_settings():
    trials = tuple(entry(f"trial {n}", BASE + 0.01 * n, lr=n, width=n % 2) for n in range(4))
    sweep = replace(trials[3], label="sweep: trial 3", trials=trials)
    page = comparison_page(compared(entry("base", BASE), sweep), "cells", {}, [], "now")
    folded = re.search("4 trials of sweep: trial 3</summary>(.*?)</details>", page, re.DOTALL)[1]
    assert folded.count("<figure>") == 1
    assert "A line per run" in folded


def test_the_page_needs_nothing_else(page):
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "nothing is loaded from elsewhere"
    assert "<b>long</b>" not in page
    assert "&lt;b&gt;long&lt;/b&gt;" in page
    assert "4 runs, 12 validation cases, 2026-01-02 03:04" in page


def test_the_page_has_all_sections_and_pictures(page):
    headings = (
        "Answer",
        "What to know",
        "Runs",
        "Curves and spread",
        "Case by case",
        "Settings",
        "Worst cases",
        "How it is reckoned",
    )
    assert tuple(re.findall("<h2>(.*?)</h2>", page)) == headings
    # Differences, curves, spread, three panels of cases, settings, worst cases.
    assert page.count("<figure>") == 8


def test_a_run_alone_has_no_differences_to_draw_and_many_notes_are_folded():
    one, notes = entry("only", BASE), [f"note {n}" for n in range(MOST_NOTES + 2)]
    found = compare_entries([one], one, Metric("mean_dice", "test"), lambda *_: None, notes)
    page = comparison_page(found, "cells", {}, [], "now")
    assert page.count("<figure>") == 1, "the spread"
    assert "<summary>2 more</summary>" in page
    assert "<p>Note 0.</p>" in page
    assert "1 runs, 12 test cases" in page
