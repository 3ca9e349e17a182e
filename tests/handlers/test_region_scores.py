"""By hand: rows of four pixels, labels edema 1, core 2 and enhancing 3, in regions that hold one another."""

import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.handlers.region_scores import RegionScores
from pipeline.metrics.pixel_error import pixel_error
from pipeline.metrics.surface import hd95

NAMES = ["background", "edema", "core", "enhancing"]
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
N_A = pytest.approx(float("nan"), nan_ok=True)


def item(truth, prediction, affine=None):
    label = torch.tensor(truth)[None]
    return {
        "id": "a",
        "label": label if affine is None else MetaTensor(label, affine=affine),
        "pred": torch.tensor(prediction)[None],
    }


def test_the_labels_of_a_region_are_one_mask():
    scores = RegionScores(NAMES, REGIONS)
    scores.update(item([[1, 2, 3, 0]], [[1, 3, 3, 3]]))
    (row,) = scores.rows
    # whole 2 * 3 / (3 + 4), core 2 * 2 / (2 + 3), enhancing 2 * 1 / (1 + 3); as unions 3/4, 2/3, 1/3
    expected = {"dice/whole": 6 / 7, "dice/core": 4 / 5, "dice/enhancing": 1 / 2}
    expected |= {"mean_dice": (6 / 7 + 4 / 5 + 1 / 2) / 3, "mean_iou": (3 / 4 + 2 / 3 + 1 / 3) / 3}
    expected |= {"iou/whole": 3 / 4, "iou/core": 2 / 3, "iou/enhancing": 1 / 3}
    assert row.pop("case") == "a"
    assert row == pytest.approx(expected)
    assert scores.compute() == pytest.approx(expected["mean_dice"])


def test_a_region_that_the_truth_lacks_is_not_applicable():
    scores = RegionScores(NAMES, REGIONS)
    scores.update(item([[1, 2, 2, 0]], [[1, 2, 2, 3]]))
    (row,) = scores.rows
    assert row["dice/enhancing"] == N_A
    assert row["mean_dice"] == pytest.approx((6 / 7 + 4 / 5) / 2)


def test_a_case_without_foreground_counts_nowhere():
    scores = RegionScores(NAMES, REGIONS)
    scores.update(item([[0, 0]], [[0, 3]]))
    assert scores.rows[0]["mean_dice"] == N_A


def test_surfaces_are_measured_in_the_images_unit():
    affine = torch.diag(torch.tensor([2.0, 5.0, 1.0]))
    scores = RegionScores(NAMES, REGIONS, surface_measures={"hd95": hd95})
    truth, prediction = ([[0] * 6, [0, label, 0, 0, 0, 0], [0] * 6] for label in (3, 0))
    prediction[1][3] = 3
    scores.update(item(truth, prediction, affine))
    assert scores.rows[0]["hd95/enhancing"] == pytest.approx(10), "two steps of 5"


def test_measures_of_one_foreground_are_refused():
    with pytest.raises(InputError, match="pixel_error would have no foreground"):
        RegionScores(NAMES, REGIONS, probability_measures={"pixel_error": pixel_error})
