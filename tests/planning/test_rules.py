"""Each rule decides what a reader of its reason would decide."""

import math

import pytest
from planned_facts import facts

from pipeline.planning.rules import cached_cases, choices, class_weight, flip_probabilities, normalisation, overlays


def decided(*args, **changes):
    return {choice.key: choice.value for choice in choices(facts(*args, **changes))}


def reason(key, *args, **changes):
    return next(choice.why for choice in choices(facts(*args, **changes)) if choice.key == key)


@pytest.mark.parametrize("changes", [{}, {"spatial_dims": 2}, {"spacings": None}, {"shapes": ((300, 300, 5),) * 20}])
def test_every_choice_has_its_reason(changes):
    found = choices(facts(**changes))
    assert all(choice.why for choice in found)
    assert len({choice.key for choice in found}) == len(found)


def test_volumes():
    found = decided()
    assert found["class_names"] == ["background", "organ"]
    assert found["in_channels"] == 1
    assert found["spacing"] == [1.0, 1.0, 1.0]
    assert found["crop_size"] == found["tiling#roi_size"] == [40, 60, 32]
    assert found["network_def#strides"] == [[2, 2, 2], [2, 2, 2], [2, 2, 1]]  # 30 / 8 is below 4
    assert found["spatial_augmentation#sigma"] == [2.0, 3.0, 1.6]
    assert found["spatial_augmentation#balance_prob"] == 0.0
    assert found["batch_size"] == 2
    assert "network_def#kernel_size" not in found


def test_a_crop_for_a_short_time():
    found = {choice.key: choice for choice in choices(facts(), most=20_000)}
    assert math.prod(found["crop_size"].value) < 1.5 * 20_000
    assert "as the time is short" in found["crop_size"].why
    assert found["spatial_augmentation#balance_prob"].value == 0.5


def test_files_without_a_spacing_are_not_resampled():
    assert decided(spacings=None)["spacing"] == [None, None, None]


def test_crops_of_large_volumes_are_laid_around_classes():
    assert decided(shapes=((300, 300, 300),) * 20)["spatial_augmentation#balance_prob"] == 0.5


def test_sparse_pictures_too():
    assert decided(2, shares=(0.99, 0.01))["spatial_augmentation#balance_prob"] == 0.5
    assert "spatial_augmentation#balance_prob" not in decided(2)


def test_few_slices():
    found = decided(shapes=((256, 256, 5),) * 20, spacings=((1, 1, 8),) * 20)
    assert found["network_def#kernel_size"] == [3, 3, 1]
    assert found["spatial_augmentation#sigma"][2] == 0.0
    assert "5 of them are too few" in reason("crop_size", shapes=((256, 256, 5),) * 20, spacings=((1, 1, 8),) * 20)


@pytest.mark.parametrize(
    ("changes", "flips"),
    [
        ({}, [0.5, 0.0, 0.0]),
        ({"classes": ("background", "left", "right")}, [0.0, 0.0, 0.0]),
        ({"classes": ("background", "anterior", "posterior")}, [0.5, 0.0, 0.0]),
        ({"spacings": None}, [0.5, 0.5, 0.5]),
        ({"spacings": None, "classes": ("background", "left")}, [0.0, 0.0, 0.0]),
        ({"spatial_dims": 2}, [0.5, 0.5]),
        ({"spatial_dims": 2, "classes": ("background", "left lung", "right lung")}, [0.0, 0.0]),
        ({"spatial_dims": 2, "classes": ("background", "top")}, [0.0, 0.5]),
    ],
)
def test_flips(changes, flips):
    assert flip_probabilities(facts(**changes))[0] == flips


def test_averages_are_those_of_the_flips():
    assert decided()["inferer"]["axes"] == [0]
    assert decided()["inferer"]["transforms"] == "mirrors"
    assert "inferer" not in decided(classes=("background", "left", "right"))
    assert decided(2)["inferer"]["transforms"] == "dihedral"
    assert "inferer" not in decided(2, classes=("background", "left", "right"))
    upright = decided(2, classes=("background", "top"))
    assert upright["inferer"]["axes"] == [1]
    assert upright["spatial_augmentation#rotation"] == 15.0


@pytest.mark.parametrize(
    ("changes", "overlay"),
    [
        ({"channels": ("CT",)}, "norm_ct_percentiles"),
        ({"channels": ("intensity",), "lows": ((-1000.0,),) * 20}, "norm_ct_percentiles"),
        ({"channels": ("intensity",)}, None),
        ({"channels": ("MRI",), "lows": ((-1000.0,),) * 20}, None),
        ({"channels": ("T1", "T2"), "lows": ((0.0, 0.0),) * 20, "medians": ((0.0, 0.0),) * 20}, "norm_nonzero"),
        ({"spatial_dims": 2, "lows": ((-1000.0,),) * 20}, None),
    ],
)
def test_normalisation(changes, overlay):
    assert normalisation(facts(**changes))[0] == overlay


def test_objects_are_parted_and_scored():
    assert overlays(facts(2)) == []
    flat = [name for name, _ in overlays(facts(2, label_kind="instances"))]
    assert flat == ["loss_border_dice", "post_watershed", "measures_instances"]
    assert [name for name, _ in overlays(facts(label_kind="instances", channels=("CT",)))] == [
        "norm_ct_percentiles",
        "post_components",
    ]


def test_no_predicted_object_is_smaller_than_what_is_annotated():
    slip = (1, *range(21, 60))  # pixels; the smallest of one case is a slip of the pen
    found = decided(2, label_kind="instances", smallest=slip)
    assert (found["instances#seeds"], found["instances#min_size"]) == ("probability", 23)
    assert "instances#min_size" not in decided(2, label_kind="instances")  # no case shows an object
    assert "instances#seeds" not in decided(label_kind="instances", smallest=slip)
    assert not {key for key in decided(2) if key.startswith("instances")}


def test_weights_of_rare_classes():
    assert class_weight(facts())[0] is None
    weights, why = class_weight(facts(classes=("background", "a", "b", "c"), shares=(0.9899, 0.01, 0.0001, 0.0)))
    assert weights == [1.0, 9.95, 10.0, 1.0]  # the roots of 1, 98.99 and 9899, which is cut; what never occurs
    assert "0.01 %" in why


def test_what_does_not_fit_into_memory_is_not_kept():
    assert cached_cases(facts(), (40, 60, 30)) == (16, 4)
    case = 40 * 60 * 30 * 8
    assert cached_cases(facts(cache_memory=2 * 18 * case), (40, 60, 30)) == (16, 2)
    assert cached_cases(facts(cache_memory=2 * 10 * case), (40, 60, 30)) == (10, 0)
    assert cached_cases(facts(cache_memory=0), (40, 60, 30)) == (0, 0)
    few = decided(cache_memory=2 * 18 * case)
    assert (few["train#dataset#cache_num"], few["validate#dataset#cache_num"]) == (16, 2)
    assert decided(training=2500)["train#dataset#cache_num"] == 2500  # without a word MONAI keeps 1,000
    assert "read anew" in reason("train#dataset#cache_num", cache_memory=0)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((256, 256, 7), (1, 1, 8)), ((256, 220, 10), (1.5, 1.5, 10)), ((400, 400, 60), (0.8, 0.8, 5))],
)
def test_slices_that_lie_far_apart_are_not_mixed(shape, spacing):
    found = decided(shapes=(shape,) * 20, spacings=(spacing,) * 20)
    assert found["spatial_augmentation#rotation"] == [0.0, 0.0, 15.0]
    assert found["spatial_augmentation#sigma"][2] == 0.0
    assert min(found["spatial_augmentation#sigma"][:2]) > 1
    assert found["grey_augmentation#0#blur"] == [[0.5, 1.0], [0.5, 1.0], [0.0, 0.0]]
    assert "spatial_augmentation#rotation" not in decided()
