"""By hand: a 4x4 truth with 4 voxels of class 1 and 2 of class 2, and what each named change does to it."""

import numpy as np
import pytest

from pipeline.metrics.overlap import accuracy, dice, iou, overlap_counts

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 2]])
N_A = float("nan")

# name, prediction, Dice of classes 1 and 2, IoU of classes 1 and 2
PAIRS = [
    ("identical", TRUTH, (1, 1), (1, 1)),
    ("shifted by one column", np.roll(TRUTH, 1, axis=1), (0.5, 0), (2 / 6, 0)),
    ("half of class 1", np.where(np.arange(4)[:, None] == 0, 0, TRUTH), (2 * 2 / (4 + 2), 1), (2 / 4, 1)),
    ("classes exchanged", np.array([0, 2, 1])[TRUTH], (0, 0), (0, 0)),
    ("prediction empty", np.zeros_like(TRUTH), (0, 0), (0, 0)),
    ("class 1 split off from itself", np.where(np.arange(4) == 1, 0, TRUTH), (2 * 2 / (4 + 2), 1), (2 / 4, 1)),
    ("merged into class 1", (TRUTH > 0).astype(int), (2 * 4 / (4 + 6), 0), (4 / 6, 0)),
]


@pytest.mark.parametrize(("name", "prediction", "dices", "ious"), PAIRS, ids=[pair[0] for pair in PAIRS])
@pytest.mark.parametrize("dims", [2, 3])
def test_named_pairs(name, prediction, dices, ious, dims):
    truth = TRUTH
    if dims == 3:
        truth, prediction = np.stack([TRUTH] * 3), np.stack([prediction] * 3)
    np.testing.assert_allclose(dice(truth, prediction, 3)[1:], dices)
    np.testing.assert_allclose(iou(truth, prediction, 3)[1:], ious)


@pytest.mark.parametrize("measure", [dice, iou])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_a_class_that_the_truth_lacks_is_not_applicable(measure, shape):
    empty, full = np.zeros(shape, int), np.broadcast_to(TRUTH, shape)
    np.testing.assert_array_equal(measure(empty, full, 3)[1:], [N_A, N_A])
    np.testing.assert_array_equal(measure(empty, empty, 3), [1, N_A, N_A])


# voxels of 16 whose class is right
RIGHT = {
    "identical": 16,
    "shifted by one column": 8,  # two in each row
    "half of class 1": 14,
    "classes exchanged": 10,
    "prediction empty": 10,
    "class 1 split off from itself": 14,
    "merged into class 1": 14,
}


@pytest.mark.parametrize(("name", "prediction"), [pair[:2] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_accuracy(name, prediction):
    assert accuracy(TRUTH, prediction) == RIGHT[name] / 16
    assert accuracy(np.stack([TRUTH] * 3), np.stack([prediction] * 3)) == RIGHT[name] / 16
    assert np.isnan(accuracy(np.zeros_like(TRUTH), prediction))
    with pytest.raises(ValueError, match="truth has 16 voxels, the prediction 12"):
        accuracy(TRUTH, prediction[1:])


def test_against_scikit_learn_on_random_labels():
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score

    random = np.random.default_rng(0)
    truth, prediction = random.integers(4, size=(2, 20, 30))
    expected = f1_score(truth.ravel(), prediction.ravel(), average=None)
    np.testing.assert_allclose(dice(truth, prediction, 4), expected)
    assert accuracy(truth, prediction) == pytest.approx(accuracy_score(truth.ravel(), prediction.ravel()))
    np.testing.assert_allclose(
        iou(truth, prediction, 4), jaccard_score(truth.ravel(), prediction.ravel(), average=None)
    )


def test_counts_and_sizes():
    np.testing.assert_array_equal(overlap_counts(TRUTH, TRUTH, 3), [[10, 10, 10], [4, 4, 4], [2, 2, 2]])
    with pytest.raises(ValueError, match="truth has 16 voxels, the prediction 15"):
        overlap_counts(TRUTH, np.zeros(15), 3)


def test_values_beyond_the_classes_do_not_lengthen_the_result():
    assert len(dice(np.array([0, 7]), np.array([0, 1]), 2)) == 2
