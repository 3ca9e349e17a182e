import numpy as np
import pytest
from scipy import ndimage
from two_cells import PREDICTIONS, TRUTH, cells_and_probability, stack

from pipeline.metrics.rand_error import rand_error, rand_error_details

# The truth has two cells of 15 pixels: 2 * 15^2 = 450 pairs. name: pairs in the prediction, pairs in both
PAIRS = {
    "identical": (450, 450),
    "merged by a pixel": (30**2, 450),
    "merged along the border": (30**2, 450),
    "left cell split": (5**2 + 5**2 + 5 + 15**2, 280),  # 5 pixels alone
    "left cell thinner": (10**2 + 5 + 15**2, 330),
    "left cell removed": (15 + 15**2, 240),
    "hole in the left cell": (14**2 + 1 + 15**2, 422),
    "shifted by one column": (5 + 10**2 + 5 + 10**2, 210),
    "all cell": (30**2, 450),
    "empty": (30, 30),
}


def f_score(name):
    in_prediction, in_both = PAIRS[name]
    return 2 * in_both / (450 + in_prediction)


def segments_of(truth, mask):
    """The pixels of the truth's cells, as (cells, segments): where the mask is 0, each pixel is its own segment."""
    cells, segments = ndimage.label(truth)[0], ndimage.label(mask)[0]
    alone = segments == 0
    segments[alone] = segments.max() + 1 + np.arange(alone.sum())
    return cells[truth], segments[truth]


@pytest.mark.parametrize("name", PREDICTIONS)
def test_named_pairs(name):
    details = rand_error_details(TRUTH, PREDICTIONS[name], [0.5])
    assert (details.in_prediction.item(), details.in_both.item()) == PAIRS[name]
    assert details.error == pytest.approx(1 - f_score(name))
    assert details.rand_split == pytest.approx(PAIRS[name][1] / 450)
    assert details.rand_merge == pytest.approx(PAIRS[name][1] / PAIRS[name][0])
    three = stack(*[TRUTH] * 3), stack(*[PREDICTIONS[name]] * 3)
    assert rand_error(*three) == pytest.approx(1 - f_score(name))


def test_golden_scores():
    assert 1 - rand_error(TRUTH, PREDICTIONS["all cell"]) == pytest.approx(0.666667, abs=1e-6)
    assert 1 - rand_error(TRUTH, PREDICTIONS["empty"]) == pytest.approx(0.125)


def test_splits_and_merges_are_told_apart():
    split = rand_error_details(TRUTH, PREDICTIONS["left cell split"])
    assert (split.rand_merge == 1).all()
    assert (split.rand_split < 1).all()
    merged = rand_error_details(TRUTH, PREDICTIONS["merged by a pixel"])
    assert (merged.rand_split == 1).all()
    assert (merged.rand_merge < 1).all()


def test_pairs_are_summed_over_the_slices_and_slices_do_not_connect():
    truth = stack(TRUTH, TRUTH, np.zeros_like(TRUTH))
    details = rand_error_details(truth, stack(TRUTH, PREDICTIONS["all cell"], TRUTH), [0.5])
    assert details.in_truth.tolist() == [450, 450, 0]
    assert details.f_scores == pytest.approx(2 * (450 + 450) / (900 + 450 + 900))
    np.testing.assert_allclose(details.slice_f_scores, [[1, f_score("all cell"), np.nan]])


def test_the_best_threshold_counts():
    soft = np.where(TRUTH == 1, 0.75, 0.25)
    details = rand_error_details(TRUTH, soft)
    assert details.f_scores == pytest.approx([2 / 3] * 3 + [1] * 5 + [0.125] * 2)
    assert (details.thresholds[details.best], details.error) == (0.3, 0)


def test_cells_that_touch_at_a_corner_are_two():
    corner = np.zeros((6, 6), int)
    corner[:3, :3] = corner[3:, 3:] = 1
    assert rand_error_details(corner, corner, [0.5]).in_truth.tolist() == [2 * 9**2]


@pytest.mark.parametrize("prediction", [TRUTH, np.zeros_like(TRUTH)], ids=["cells", "empty"])
def test_without_a_cell_in_the_truth_it_is_not_applicable(prediction):
    empty = np.zeros_like(TRUTH)
    assert np.isnan(rand_error(empty, prediction))
    assert np.isnan(rand_error(stack(empty, empty), stack(prediction, prediction)))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_against_the_pairs_of_scikit_learn(threshold):
    from sklearn.metrics.cluster import pair_confusion_matrix

    truth, probability = cells_and_probability(seed=3)
    cells, segments = segments_of(truth, probability > threshold)
    # Ordered pairs without a pixel's pair with itself: those of cells.size.
    (_, merged), (split, both) = pair_confusion_matrix(cells, segments)
    details = rand_error_details(truth, probability, [threshold])
    assert details.in_both.item() == both + cells.size
    assert details.in_truth.item() == both + split + cells.size
    assert details.in_prediction.item() == both + merged + cells.size


def test_against_scikit_image():
    """It leaves out the n pairs of a pixel with itself, so its error is larger by a factor of pairs / (pairs - 2 n).

    For cells of 2000 pixels that is one part in 2000: 2e-5 of an error of 0.04. Its precision is the split score, its
    recall the merge score.
    """
    from skimage.metrics import adapted_rand_error

    truth, probability = cells_and_probability(seed=0, size=256, cell_size=2500, noise=0.4)
    details = rand_error_details(truth, probability, [0.7])
    cells, segments = segments_of(truth, probability > 0.7)
    error, precision, recall = adapted_rand_error(cells, segments, ignore_labels=())
    n, pairs = cells.size, details.in_truth.item() + details.in_prediction.item()
    assert 0.03 < details.error < 0.05, "an error as in the challenge"
    assert error == pytest.approx(details.error, abs=3e-5)
    assert error == pytest.approx(details.error * pairs / (pairs - 2 * n), abs=1e-12)
    assert precision == pytest.approx(details.rand_split.item(), abs=1e-4)
    assert recall == pytest.approx(details.rand_merge.item(), abs=1e-4)
