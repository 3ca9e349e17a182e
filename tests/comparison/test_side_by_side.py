"""Which cases of two runs are shown, and who is right where they differ."""

import numpy as np
from made_entries import BASE, compared, entry

from pipeline.comparison.side_by_side import classes_on, opponents, side_by_side, who_is_right, worst_cases
from pipeline.figures import CLASSES, INVENTED, MISSED, RIGHT
from pipeline.slices import Slice


def kept(cases, truth=1):
    square = np.full((4, 4), truth, np.uint8)
    return {case: Slice(0.5, square, square, square) for case in cases}


def test_the_baseline_meets_the_best_other_run():
    found = compared(entry("base", BASE), entry("low", BASE - 0.1), entry("high", BASE + 0.1))
    assert [row.label for row in opponents(found)] == ["base", "high"]
    assert opponents(compared(entry("base", BASE))) is None


def test_the_worst_cases_of_either_run_that_both_keep():
    theirs = BASE.copy()
    theirs[7] = 0.1
    found = compared(entry("base", BASE), entry("other", theirs))
    pair = opponents(found)
    cases = [f"case_{n}" for n in range(12)]
    assert worst_cases(found, pair, [kept(cases), kept(cases)], 3) == ["case_7", "case_0", "case_1"]
    assert worst_cases(found, pair, [kept(cases), kept(cases[1:])], 2) == ["case_7", "case_1"]
    other_plane = {**kept(cases), **kept(["case_7"], truth=2)}
    assert worst_cases(found, pair, [kept(cases), other_plane], 1) == ["case_0"]


def test_who_is_right_by_hand():
    truth, first, second = (
        np.array([values], np.uint8) for values in ([1, 1, 1, 0, 2], [1, 0, 1, 0, 0], [1, 1, 0, 0, 1])
    )
    picture = who_is_right(np.full((1, 5), 255, np.uint8), truth, first, second)
    np.testing.assert_allclose(picture[0], [(1, 1, 1), RIGHT, MISSED, (1, 1, 1), INVENTED])


def test_classes_have_colours_of_their_own():
    picture = classes_on(np.zeros((1, 3), np.uint8), np.array([[0, 1, 2]], np.uint8))
    np.testing.assert_allclose(picture[0], [(0, 0, 0), np.divide(RIGHT, 2), np.divide(CLASSES[0], 2)])


def test_a_row_of_five_panels_for_each_case():
    found = compared(entry("base", BASE), entry("other", BASE + 0.1))
    cases = ["case_0", "case_3"]
    figure = side_by_side(found, opponents(found), [kept(cases), kept(cases)], cases)
    assert len(figure.axes) == 10
    assert [axes.get_title() for axes in figure.axes[:5]] == ["image", "truth", "base", "other", "where they differ"]
    assert [axes.get_xlabel() for axes in figure.axes[2:4]] == ["0.6000", "0.7000"]
