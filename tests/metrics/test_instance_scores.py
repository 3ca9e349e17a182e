import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from two_cells import draw, stack

from pipeline.metrics.instance_scores import IOU_THRESHOLDS, average_precision, instance_details, panoptic_quality

TRUTH = draw("""
    .....
    .1155
    .1155
    .....
""")
EMPTY = np.zeros_like(TRUTH)

# name: prediction, IoU of the pairs above 0.5, objects in the prediction
PAIRS = {
    "identical": (TRUTH, [1, 1], 2),
    "other ids": (draw("..... .7722 .7722 ....."), [1, 1], 2),
    "merged": (draw("..... .3333 .3333 ....."), [], 1),  # an IoU of 0.5 twice
    "half of 5": (draw("..... .1155 .11.. ....."), [1], 2),
    "three quarters of 5": (draw("..... .1155 .11.5 ....."), [1, 3 / 4], 2),
    "5 split in half": (draw("..... .1156 .1156 ....."), [1], 3),
    "1 grown over half of 5": (draw("..... .1115 .1115 ....."), [4 / 6], 2),  # and 5 halved
    "shifted by one row": (np.roll(TRUTH, 1, axis=0), [], 2),
    "shifted by one column": (np.roll(TRUTH, 1, axis=1), [], 2),
    "false positives": (draw("33333 41155 41155 66666"), [1, 1], 5),
    "all one segment": (np.ones_like(TRUTH), [], 1),
    "empty": (EMPTY, [], 0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_named_pairs(name):
    prediction, ious, found = PAIRS[name]
    precisions = []
    for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        matched = sum(iou > threshold for iou in ious)
        precisions.append(matched / (2 + found - matched))
    for pair in ((TRUTH, prediction), (stack(*[TRUTH] * 3), stack(*[prediction] * 3))):
        assert instance_details(*pair).average_precision == pytest.approx(precisions)
        assert average_precision(*pair) == pytest.approx(sum(precisions) / 10)
        assert average_precision(*pair, thresholds=[0.75]) == pytest.approx(precisions[5])
        # The objects that are not matched, false or missed, count half each: 2 + found - 2 matched of them.
        assert panoptic_quality(*pair) == pytest.approx(sum(ious) / (len(ious) + (2 + found - 2 * len(ious)) / 2))


def test_an_iou_at_the_threshold_is_no_match():
    # 11 of 20, 3 of 4 and 19 of 20 pixels: exactly 0.55, 0.75 and 0.95.
    for part, whole in ((11, 20), (3, 4), (19, 20)):
        truth, prediction = np.ones(whole, int), (np.arange(whole) < part).astype(int)
        matched = instance_details(truth, prediction).matched.tolist()
        assert matched == [int(threshold < part / whole) for threshold in IOU_THRESHOLDS]
        assert sum(matched) == round(20 * part / whole) - 10


def test_details_by_hand():
    details = instance_details(TRUTH, PAIRS["three quarters of 5"][0], [0.5, 0.8])
    assert (details.in_truth, details.in_prediction) == (2, 2)
    assert details.matched.tolist() == [2, 1]
    assert details.recognition_quality == pytest.approx([1, 1 / 2])
    assert details.segmentation_quality == pytest.approx([7 / 8, 1])
    assert details.panoptic_quality == pytest.approx([7 / 8, 1 / 2])
    nothing = instance_details(TRUTH, EMPTY, [0.5])
    assert (nothing.recognition_quality, nothing.panoptic_quality) == (0, 0)
    assert np.isnan(nothing.segmentation_quality)


@pytest.mark.parametrize("prediction", [TRUTH, EMPTY], ids=["cells", "empty"])
def test_without_an_object_in_the_truth_it_is_not_applicable(prediction):
    for pair in ((EMPTY, prediction), (stack(EMPTY, EMPTY), stack(prediction, prediction))):
        assert np.isnan(average_precision(*pair))
        assert np.isnan(panoptic_quality(*pair))
        assert np.isnan(instance_details(*pair).recognition_quality).all()


def test_thresholds_that_leave_the_match_open_are_refused():
    assert IOU_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    for threshold in (0.4, 1.0):
        with pytest.raises(ValueError, match=r"in \[0\.5, 1\)"):
            average_precision(TRUTH, TRUTH, [threshold])


def noisy_objects(seed, shape):
    """Rows of boxes, and a prediction in which each box has moved, shrunk or vanished."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, *shape), int)
    for k, start in enumerate(np.ndindex(*[size // 8 for size in shape]), 1):
        corner = 8 * np.array(start)
        truth[tuple(slice(c, c + 6) for c in corner)] = k
        moved = corner + random.integers(0, 3, len(shape))
        if random.random() < 0.9:
            prediction[tuple(slice(c, c + int(random.integers(4, 7))) for c in moved)] = 1000 - k
    return truth, prediction


@pytest.mark.parametrize("shape", [(64, 80), (16, 24, 32)])
def test_against_an_optimal_assignment_of_masks(shape):
    truth, prediction = noisy_objects(0, shape)
    masks = [[objects == k for k in np.unique(objects) if k] for objects in (truth, prediction)]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]])
    details = instance_details(truth, prediction)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        matched = int((iou > threshold)[linear_sum_assignment(-(iou > threshold).astype(int))].sum())
        assert details.matched[t] == matched
        assert details.average_precision[t] == matched / (len(masks[0]) + len(masks[1]) - matched)
    assert details.matched[-1] < details.matched[2] < details.matched[0] < len(masks[0])


def test_against_monai():
    import torch
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    truth, prediction = noisy_objects(1, (64, 80))
    prediction = np.unique(prediction, return_inverse=True)[1]
    details = instance_details(truth, prediction, [0.5, 0.7])
    for t, threshold in enumerate((0.5, 0.7)):
        for name in ("pq", "sq", "rq"):
            expected = compute_panoptic_quality(
                torch.from_numpy(prediction), torch.from_numpy(truth), name, match_iou_threshold=threshold
            )
            ours = {
                "pq": details.panoptic_quality,
                "sq": details.segmentation_quality,
                "rq": details.recognition_quality,
            }
            assert ours[name][t] == pytest.approx(float(expected), abs=1e-5)
