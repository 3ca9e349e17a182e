import numpy as np
import pytest
from two_cells import PREDICTIONS, TRUTH, cells_and_probability, stack

from pipeline.metrics.pixel_error import pixel_error, pixel_error_details

# The truth has 30 of 63 pixels. F = 2 in both / (30 + in the prediction).
F_SCORES = {
    "identical": 1,
    "merged by a pixel": 2 * 30 / (30 + 31),
    "merged along the border": 2 * 30 / (30 + 35),
    "left cell split": 2 * 25 / (30 + 25),
    "left cell thinner": 2 * 25 / (30 + 25),
    "left cell removed": 2 * 15 / (30 + 15),
    "hole in the left cell": 2 * 29 / (30 + 29),
    "shifted by one column": 2 * 20 / (30 + 30),
    "all cell": 2 * 30 / (30 + 63),
    "empty": 0,
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_named_pairs(name):
    assert pixel_error(TRUTH, PREDICTIONS[name]) == pytest.approx(1 - F_SCORES[name])
    three = stack(*[TRUTH] * 3), stack(*[PREDICTIONS[name]] * 3)
    assert pixel_error(*three) == pytest.approx(1 - F_SCORES[name])


def test_pixels_are_summed_over_the_slices():
    # 30 + 15 of 60 in both, 30 + 15 in the prediction: F = 90 / 105, and not the mean of 1 and 30 / 45.
    details = pixel_error_details(stack(TRUTH, TRUTH), stack(TRUTH, PREDICTIONS["left cell removed"]), [0.5])
    assert details.error == pytest.approx(1 - 90 / 105)
    assert details.in_truth.tolist() == [30, 30]
    assert details.in_prediction.tolist() == details.in_both.tolist() == [[30, 15]]


def test_the_best_threshold_counts():
    soft = np.where(TRUTH == 1, 0.75, 0.25)
    details = pixel_error_details(TRUTH, soft)
    # Up to 0.2 all is cell, above 0.7 nothing is.
    assert details.f_scores == pytest.approx([60 / 93] * 3 + [1] * 5 + [0] * 2)
    assert (details.best, details.error) == (3, 0)
    assert pixel_error(TRUTH, soft, thresholds=[0.1]) == pytest.approx(1 - 60 / 93)


def test_a_pixel_at_the_threshold_is_membrane():
    # 0.7 as a float32 is 0.69999999 and 0.6 is 0.60000002: both are compared as what they stand for.
    for value in (0.6, 0.7):
        soft = (TRUTH * value).astype(np.float32)
        assert pixel_error(TRUTH, soft, [value]) == pixel_error(TRUTH, soft, np.array([value])) == 1
    assert pixel_error(TRUTH, TRUTH.astype(float), [0.0]) == 0


@pytest.mark.parametrize("prediction", [TRUTH, np.zeros_like(TRUTH)], ids=["cells", "empty"])
def test_without_a_cell_in_the_truth_it_is_not_applicable(prediction):
    empty = np.zeros_like(TRUTH)
    assert np.isnan(pixel_error(empty, prediction))
    assert np.isnan(pixel_error(stack(empty, empty), stack(prediction, prediction)))


def test_against_scikit_learn():
    from sklearn.metrics import f1_score

    pairs = [cells_and_probability(seed) for seed in range(2)]
    truth, probability = (stack(*arrays) for arrays in zip(*pairs, strict=True))
    expected = [f1_score(truth.ravel(), probability.ravel() > t / 10) for t in range(10)]
    details = pixel_error_details(truth, probability)
    np.testing.assert_allclose(details.f_scores, expected)
    assert details.error == pytest.approx(1 - max(expected))
