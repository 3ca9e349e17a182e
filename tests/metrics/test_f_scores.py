import numpy as np
import pytest

from pipeline.metrics.f_scores import FScores


def test_slices_are_summed_before_the_division():
    scores = FScores((0.2, 0.6), np.array([10, 30]), np.array([[20, 40], [5, 5]]), np.array([[10, 20], [5, 5]]))
    # 2 * 30 / (40 + 60) and 2 * 10 / (40 + 10)
    assert scores.f_scores == pytest.approx([0.6, 0.4])
    assert (scores.best, scores.error) == (0, pytest.approx(0.4))


def test_nothing_in_the_truth_is_not_applicable():
    scores = FScores((0.5,), np.array([0, 0]), np.array([[3, 0]]), np.array([[0, 0]]))
    assert np.isnan(scores.f_scores).all()
    assert np.isnan(scores.error)
