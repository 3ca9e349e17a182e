from math import log

import numpy as np
import pytest
from two_cells import PREDICTIONS, TRUTH, cells_and_probability, stack

from pipeline.metrics.thinned_segments import thinned_segments
from pipeline.metrics.vinfo import vinfo, vinfo_details

# Half of 30 pixels lies in either cell, so H(A) = ln 2. Where each segment lies in one cell, I = H(A) and the merge
# score is 1; the split score is then ln 2 / H(B).
H_SPLIT = 2 * (5 / 30) * log(30 / 5) + (5 / 30) * log(30) + (15 / 30) * log(30 / 15)  # 5 pixels alone
H_SHIFTED = (15 / 30) * log(30 / 15) + (5 / 30) * log(30) + (10 / 30) * log(30 / 10)  # the line runs in column 5
SCORES = {
    "identical": (1, 1),
    "merged by a pixel": (1, 0),
    "merged along the border": (1, 0),
    "left cell split": (log(2) / H_SPLIT, 1),
    "left cell thinner": (1, 1),  # it grows back
    "left cell removed": (1, 0),  # the right one grows over it
    "hole in the left cell": (1, 1),  # it is filled
    "shifted by one column": (log(2) / H_SHIFTED, 1),
    "all cell": (1, 0),
    "empty": (log(2) / log(30), 1),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_named_pairs(name):
    split, merge = SCORES[name]
    details = vinfo_details(TRUTH, PREDICTIONS[name], [0.5])
    assert details.split.item() == pytest.approx(split)
    assert details.merge.item() == pytest.approx(merge)
    expected = 2 * split * merge / (split + merge)
    assert vinfo(TRUTH, PREDICTIONS[name]) == pytest.approx(expected)
    assert vinfo(stack(*[TRUTH] * 3), stack(*[PREDICTIONS[name]] * 3)) == pytest.approx(expected)


def test_a_truth_of_one_cell_has_no_information():
    one = PREDICTIONS["left cell removed"]
    for prediction in PREDICTIONS.values():
        assert vinfo(one, prediction) == 0


def test_f_is_averaged_over_slices_and_those_without_a_cell_are_left_out():
    truth = stack(TRUTH, TRUTH, np.zeros_like(TRUTH))
    assert vinfo(truth, stack(TRUTH, PREDICTIONS["all cell"], TRUTH)) == pytest.approx((1 + 0) / 2)


@pytest.mark.parametrize("prediction", [TRUTH, np.zeros_like(TRUTH)], ids=["cells", "empty"])
def test_without_a_cell_in_the_truth_it_is_not_applicable(prediction):
    empty = np.zeros_like(TRUTH)
    assert np.isnan(vinfo(empty, prediction))
    assert np.isnan(vinfo(stack(empty, empty), stack(prediction, prediction)))


def test_against_scikit_learn_and_scikit_image():
    from scipy import ndimage
    from skimage.metrics import variation_of_information
    from sklearn.metrics import mutual_info_score

    truth, probability = cells_and_probability(seed=6)
    segments = thinned_segments(probability > 0.6)
    segments[segments == 0] = segments.max() + 1 + np.arange((segments == 0).sum())
    cells, segments = ndimage.label(truth)[0][truth], segments[truth]
    shared = mutual_info_score(cells, segments)
    h_truth, h_prediction = mutual_info_score(cells, cells), mutual_info_score(segments, segments)
    details = vinfo_details(truth, probability, [0.6])
    assert details.split.item() == pytest.approx(shared / h_prediction)
    assert details.merge.item() == pytest.approx(shared / h_truth)
    # H(B | A) and H(A | B), in bits
    split_bits, merge_bits = variation_of_information(cells, segments, ignore_labels=())
    assert details.split.item() == pytest.approx(1 - split_bits * log(2) / h_prediction)
    assert details.merge.item() == pytest.approx(1 - merge_bits * log(2) / h_truth)
