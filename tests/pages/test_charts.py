"""Charts are read back from what matplotlib holds."""

import numpy as np
import pytest

from pipeline.pages import charts

NAN = float("nan")


def rows(*scores):
    return [{"case": str(n), "mean_dice": score} for n, score in enumerate(scores)]


def test_the_histogram_counts_every_case_once():
    (axes,) = charts.histogram(rows(0.12, 0.5, 0.55, 1.0, NAN, None)).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.get_xlim() == pytest.approx((0.1, 1))  # down to the next twentieth
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == ["mean 0.542", "median 0.525"]  # 2.17 / 4; between 0.5 and 0.55


def test_no_bar_stands_behind_the_legend_of_the_histogram():
    figure = charts.histogram(rows(*[0.3] * 9, 0.99))  # the highest bar is the one on the left
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().y0 >= axes.bbox.y1


def test_without_scores_there_is_no_histogram():
    assert charts.histogram(rows(NAN)) is None
    assert charts.histogram([]) is None


def test_strips_have_a_dot_for_each_case_that_has_the_class():
    values = {"a": (0.5, NAN), "b": (0.7, 0.9)}
    cases = [{"case": case, "dice/liver": liver, "dice/$kidney_": kidney} for case, (liver, kidney) in values.items()]
    (axes,) = charts.strips(cases).axes
    liver, kidney = (np.asarray(dots.get_offsets()) for dots in axes.collections)
    assert liver[:, 0].tolist() == [0.5, 0.7]
    assert kidney[:, 0].tolist() == [0.9]
    assert np.abs(kidney[:, 1] - 1).max() < 0.25
    assert [label.get_text() for label in axes.get_yticklabels()] == ["liver", "$kidney_"]
    diamonds = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == pytest.approx([0.6, 0.9])


def test_a_single_class_needs_no_strips():
    assert charts.strips([{"case": "a", "dice/cell": 0.5}]) is None


HISTORY = [
    {"epoch": 1, "train/loss": 2.0, "train/learning_rate": 0.1},
    {"epoch": 2, "train/loss": 1.0, "train/learning_rate": 0.1, "val/mean_dice": 0.6},
    {"epoch": 4, "train/loss": NAN, "train/learning_rate": 0.1, "val/mean_dice": 0.4},
]
HISTORY[1] |= {"val/dice/a": 0.5, "val/dice/b": 0.7}
HISTORY[2] |= {"val/dice/a": NAN, "val/dice/b": 0.4}


def test_curves_hold_what_the_history_says():
    loss, score, classes, rate = (figure.axes[0] for figure in charts.curves(HISTORY))
    assert [axes.get_ylabel() for axes in (loss, rate)] == ["training loss", "learning rate"]
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 2], [2, 1]])
    np.testing.assert_array_equal(score.lines[0].get_xydata(), [[2, 0.6], [4, 0.4]])
    assert score.get_legend().get_texts()[0].get_text() == "best 0.6000, epoch 2"
    assert [line.get_label() for line in classes.lines] == ["a", "b"]
    np.testing.assert_array_equal(classes.lines[0].get_xydata(), [[2, 0.5]])
    assert classes.lines[0].get_marker() == "o"  # a line through one point is not seen


def test_all_curves_span_the_same_epochs():
    axes = [figure.axes[0] for figure in charts.curves(HISTORY)]
    assert {each.get_xlim() for each in axes} == {(0.5, 4.5)}
    assert all(tick == round(tick) for each in axes for tick in each.get_xticks())


def test_a_training_without_validation_has_no_empty_panels():
    assert [figure.axes[0].get_ylabel() for figure in charts.curves(HISTORY[:1])] == ["training loss", "learning rate"]


def test_only_finite_numbers_count():
    assert charts.numbers([1, None, NAN, float("inf"), 0.5]) == [1.0, 0.5]
