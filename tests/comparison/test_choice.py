"""What a metric's name means."""

import pytest

from pipeline.comparison.choice import parse_metric
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("word", "split", "expected"),
    [
        ("val/mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("val_mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("test/dice/cell", None, ("dice/cell", "test", "test/dice/cell")),
        ("best/mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("mean_dice", "test", ("mean_dice", "test", "test/mean_dice")),
        ("validation/seg", "validation", ("seg", "validation", "val/seg")),
        ("valued", None, ("valued", "validation", "val/valued")),
    ],
)
def test_a_metric_by_its_names(word, split, expected):
    found = parse_metric(word, split)
    assert (found.column, found.split, found.name) == expected


def test_a_metric_of_another_split_is_refused():
    with pytest.raises(InputError, match=r"'test/mean_dice' is of the test split, not of 'validation'"):
        parse_metric("test/mean_dice", "validation")


@pytest.mark.parametrize("name", ["pixel_error", "mean_hd95", "hd95/liver", "surface_distance/a", "warping_error"])
def test_of_errors_and_distances_less_is_better(name):
    assert not parse_metric(name).higher_is_better


@pytest.mark.parametrize("name", ["mean_dice", "iou/cell", "accuracy", "seg", "surface_dice/a", "vrand"])
def test_of_scores_more_is_better(name):
    assert parse_metric(name).higher_is_better
