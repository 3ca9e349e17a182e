import numpy as np
import pytest
from two_cells import cells_and_probability, stack

from pipeline.metrics.f_scores import FScores
from pipeline.metrics.pixel_error import pixel_error, pixel_error_details
from pipeline.metrics.rand_error import RandDetails, rand_error, rand_error_details
from pipeline.metrics.vinfo import vinfo, vinfo_details
from pipeline.metrics.vrand import vrand, vrand_details
from pipeline.metrics.warping_error import warping_error, warping_error_details

PAIRS = [
    (pixel_error, pixel_error_details),
    (rand_error, rand_error_details),
    (warping_error, warping_error_details),
    (vrand, vrand_details),
    (vinfo, vinfo_details),
]


def drifting(size=48):
    """Three slices, of which the second has no cell, and a P(cell) that falls from one to the next."""
    pairs = [cells_and_probability(seed, size=size) for seed in range(3)]
    truth, probability = (stack(*arrays) for arrays in zip(*pairs, strict=True))
    truth[1] = False
    return truth, probability * np.array([1, 0.7, 0.5])[:, None, None]


def test_slices_are_put_side_by_side():
    first = FScores((0.2, 0.6), np.array([10]), np.array([[20], [5]]), np.array([[10], [5]]))
    second = FScores((0.2, 0.6), np.array([30]), np.array([[40], [5]]), np.array([[20], [5]]))
    both = first + second
    assert both.in_truth.tolist() == [10, 30]
    assert both.in_prediction.tolist() == [[20, 40], [5, 5]]
    assert both.in_both.tolist() == [[10, 20], [5, 5]]
    # 2 * 30 / (40 + 60) at 0.2, 2 * 10 / (40 + 10) at 0.6
    assert float(both) == pytest.approx(1 - 0.6)


@pytest.mark.parametrize(("measure", "details"), PAIRS, ids=[measure.__name__ for measure, _ in PAIRS])
def test_a_stack_in_pieces_is_the_stack(measure, details):
    truth, probability = drifting()
    whole = measure(truth, probability)
    assert float(details(truth, probability)) == whole
    parts = [details(*pair) for pair in zip(truth, probability, strict=True)]
    assert float(parts[0] + parts[1] + parts[2]) == whole
    assert float(parts[0] + details(truth[1:], probability[1:])) == whole
    alone = np.nanmean([float(part) for part in parts])
    assert whole != pytest.approx(alone, rel=0.01), "the mean over slices would pass for the stack"


def test_the_sum_is_of_the_same_kind():
    details = rand_error_details(*drifting())
    assert isinstance(details + details, RandDetails)
    assert (details + details).slice_f_scores.shape == (10, 6)


def test_different_thresholds_are_refused():
    truth, probability = drifting()
    with pytest.raises(ValueError, match="thresholds"):
        pixel_error_details(truth, probability, [0.5]) + pixel_error_details(truth, probability, [0.6])
