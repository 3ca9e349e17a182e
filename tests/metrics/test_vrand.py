import numpy as np
import pytest
from two_cells import PREDICTIONS, TRUTH, cells_and_probability, stack

from pipeline.metrics.thinned_segments import thinned_segments
from pipeline.metrics.vrand import vrand, vrand_details

# Pairs in the prediction and in both, after thinning; the truth has 2 * 15^2 = 450.
PAIRS = {
    "identical": (450, 450),
    "merged by a pixel": (30**2, 450),
    "merged along the border": (30**2, 450),
    "left cell split": (5**2 + 5**2 + 5 + 15**2, 280),  # 5 pixels alone
    "left cell thinner": (450, 450),  # it grows back
    "left cell removed": (30**2, 450),  # the right one grows over it
    "hole in the left cell": (450, 450),  # it is filled
    "shifted by one column": (15**2 + 5 + 10**2, 330),  # the line runs in column 5
    "all cell": (30**2, 450),
    "empty": (30, 30),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_named_pairs(name):
    in_prediction, in_both = PAIRS[name]
    expected = 2 * in_both / (450 + in_prediction)
    assert vrand(TRUTH, PREDICTIONS[name]) == pytest.approx(expected)
    assert vrand(stack(*[TRUTH] * 3), stack(*[PREDICTIONS[name]] * 3)) == pytest.approx(expected)
    details = vrand_details(TRUTH, PREDICTIONS[name], [0.5])
    assert details.split.item() == pytest.approx(in_both / 450)
    assert details.merge.item() == pytest.approx(in_both / in_prediction)


def test_f_is_averaged_over_slices_and_those_without_a_cell_are_left_out():
    truth = stack(TRUTH, TRUTH, np.zeros_like(TRUTH))
    prediction = stack(TRUTH, PREDICTIONS["empty"], TRUTH)
    assert vrand(truth, prediction) == pytest.approx((1 + 0.125) / 2)


def test_one_threshold_is_best_for_all_slices():
    bright, dark = np.where(TRUTH == 1, 0.75, 0.25), np.where(TRUTH == 1, 0.15, 0.05)
    assert vrand(TRUTH, bright) == vrand(TRUTH, dark) == 1
    # At 0.1 the bright one is all cell and the dark one right; from 0.3 the bright one is right and the dark one empty.
    details = vrand_details(stack(TRUTH, TRUTH), stack(bright, dark))
    assert details.f_scores[[1, 3]] == pytest.approx([(2 / 3 + 1) / 2, (1 + 0.125) / 2])
    assert (details.best, details.score) == (1, pytest.approx(5 / 6))


@pytest.mark.parametrize("prediction", [TRUTH, np.zeros_like(TRUTH)], ids=["cells", "empty"])
def test_without_a_cell_in_the_truth_it_is_not_applicable(prediction):
    empty = np.zeros_like(TRUTH)
    assert np.isnan(vrand(empty, prediction))
    assert np.isnan(vrand(stack(empty, empty), stack(prediction, prediction)))


def test_against_scikit_learn():
    from scipy import ndimage
    from sklearn.metrics.cluster import pair_confusion_matrix

    truth, probability = cells_and_probability(seed=5)
    segments = thinned_segments(probability > 0.6)
    segments[segments == 0] = segments.max() + 1 + np.arange((segments == 0).sum())
    cells = ndimage.label(truth)[0][truth]
    (_, merged), (split, both) = pair_confusion_matrix(cells, segments[truth])
    both += cells.size  # each pixel with itself
    details = vrand_details(truth, probability, [0.6])
    assert details.split.item() == pytest.approx(both / (both + split))
    assert details.merge.item() == pytest.approx(both / (both + merged))
