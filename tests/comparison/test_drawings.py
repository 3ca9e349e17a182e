"""What pictures show, read from the drawn figures."""

from itertools import pairwise

import numpy as np
import pytest
from made_entries import BASE, DICE, compared, entry
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.comparison import drawings
from pipeline.comparison.entries import Entry


@pytest.fixture
def comparison():
    entries = [
        entry("base", BASE, epochs=3, rate=0.1),
        entry("up", BASE + np.linspace(0.01, 0.03, 12), epochs=9, rate=0.1),
        entry("down", BASE - 0.02, epochs=3, rate=0.001),
        entry("same", BASE, epochs=3, rate=0.01),
    ]
    return compared(*entries)


def test_differences_stand_in_the_order_of_the_rows(comparison):
    (axes,) = drawings.differences(comparison).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["up", "same", "down"]
    points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(point) for point in points] == [pytest.approx((x, y)) for y, x in enumerate((0.02, 0.0, -0.02))]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the best is on top"


@pytest.mark.parametrize("by", [0.00001234, 0.0123, 1.5])
def test_numbers_below_a_picture_do_not_meet(by):
    found = compared(
        entry("base", BASE), *(entry(f"run {n}", BASE + by * (n + np.linspace(0, 1, 12))) for n in range(3))
    )
    for figure in (drawings.differences(found), drawings.spread(found)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        labels = [text for text in figure.axes[0].get_xticklabels() if text.get_text()]
        boxes = sorted(text.get_window_extent(canvas.get_renderer()).extents.tolist() for text in labels)
        assert len(boxes) >= 3
        assert all(left[2] < right[0] for left, right in pairwise(boxes))


def test_curves_are_averaged_over_folds_and_named(comparison):
    one, other = entry("one", BASE).run, entry("other", BASE).run
    base = comparison.baseline.entry
    folded = Entry("folds", one, (one, other), base.scores)
    found = compared(base, folded)
    histories = {"base": [(1, 0.5), (2, 0.7)], "one": [(1, 0.2), (2, 0.4), (3, 0.9)], "other": [(1, 0.4), (2, 0.6)]}
    (axes,) = drawings.curves(found, histories).axes
    lines = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "None"]
    assert [[1, pytest.approx(0.3)], [2, pytest.approx(0.5)]] in lines, "the third epoch is of one fold only"
    assert [[1, 0.5], [2, 0.7]] in lines
    assert {text.get_text() for text in axes.texts} == {"base", "folds"}
    assert drawings.curves(comparison, {}) is None


def test_paired_dots_are_the_sorted_differences(comparison):
    panels = drawings.paired(comparison)
    assert len(panels) == 3
    (axes,) = panels[0].axes
    np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 1], np.linspace(0.01, 0.03, 12))
    assert axes.get_xlabel() == "12 better, 0 worse, 0 equal"
    assert len({panel.axes[0].get_ylim() for panel in panels}) == 1


def test_classes_have_a_picture_each():
    scores = {"a": {"mean_dice": 0.5, "dice/x": 0.4, "dice/y": 0.6, "iou/x": 0.3}}
    base = Entry("e", entry("e", []).run, (entry("e", []).run,), scores)
    found = compared(base)
    assert drawings.class_columns(found) == ["dice/x", "dice/y"]
    assert [figure.axes[0].get_xlabel() for figure in drawings.by_class(found)] == ["dice/x", "dice/y"]


def test_parallel_lines_go_through_settings_to_the_score(comparison):
    (axes,) = drawings.parallel([row.entry for row in comparison.rows], DICE).axes
    best = max((line for line in axes.lines if len(line.get_xdata()) == 3), key=lambda line: line.get_zorder())
    # Rate 0.1 of 0.001..0.1, a factor of 100, is on top of a logarithmic axis; so are epochs 9 of 3..9, and the score.
    np.testing.assert_allclose(best.get_ydata(), [1, 1, 1])
    rates = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 3]
    assert sorted(rates) == pytest.approx([0, 0.5, 1, 1])


def test_few_runs_or_settings_have_no_parallel_lines(comparison):
    entries = [row.entry for row in comparison.rows]
    assert drawings.parallel([one for one in entries if one.label != "same"], DICE) is None
    assert drawings.parallel([entry(name, BASE, epochs=n) for n, name in enumerate("abcd")], DICE) is None


def test_long_names_keep_both_ends():
    assert drawings.shortened("cells-20260101-120000-border", 12) == "cells-…order"
    assert drawings.shortened("short") == "short"
