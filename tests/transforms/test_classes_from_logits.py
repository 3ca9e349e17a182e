"""Logits to classes: the most probable of several, or a foreground alone against one half."""

import math

import pytest
import torch
from monai.data import MetaTensor

from pipeline.transforms.classes_from_logits import ClassesFromLogitsd


def test_several_channels_exclude_each_other():
    # Two pixels of three classes: odds 1 : 2 : 1, and 3 : 1 : 4.
    logits = torch.tensor([[1.0, 2, 1], [3, 1, 4]]).log().T.reshape(3, 1, 2)
    result = ClassesFromLogitsd("pred")({"pred": logits, "id": "a"})
    assert result["pred"].tolist() == [[[1, 2]]]
    expected = torch.tensor([[0.25, 0.5, 0.25], [0.375, 0.125, 0.5]]).T.reshape(3, 1, 2)
    torch.testing.assert_close(result["probabilities"], expected)
    assert result["id"] == "a"


def test_one_channel_is_the_foreground():
    logits = torch.tensor([[[-math.log(3), 0.0, 1e-3, math.log(3)]]])
    result = ClassesFromLogitsd("pred")({"pred": logits})
    assert result["pred"].tolist() == [[[0, 0, 1, 1]]]
    assert result["probabilities"].shape == (1, 1, 4)
    assert result["probabilities"][0, 0, [0, 1, 3]].tolist() == pytest.approx([0.25, 0.5, 0.75])


def test_a_logit_and_a_pair_of_its_difference_are_the_same_class():
    random = torch.Generator().manual_seed(0)
    logit = torch.randn(1, 6, 7, generator=random)
    pair = torch.cat([torch.zeros_like(logit), logit])
    one, two = (ClassesFromLogitsd("pred")({"pred": logits}) for logits in (logit, pair))
    assert torch.equal(one["pred"], two["pred"])
    torch.testing.assert_close(one["probabilities"][0], two["probabilities"][1])


@pytest.mark.parametrize("channels", [1, 3])
def test_meta_data_go_along_and_half_precision_is_computed_in_single(channels):
    logits = MetaTensor(torch.randn(channels, 4, 5).bfloat16(), meta={"filename_or_obj": "a.tif"})
    result = ClassesFromLogitsd("pred")({"pred": logits})
    for key in ("pred", "probabilities"):
        assert result[key].meta["filename_or_obj"] == "a.tif"
    assert result["probabilities"].dtype == torch.float32
    assert result["pred"].shape == (1, 4, 5)


def test_keys_and_what_becomes_of_the_probabilities():
    logits = torch.zeros(2, 3, 3)
    assert ClassesFromLogitsd("a", None)({"a": logits}).keys() == {"a"}
    both = ClassesFromLogitsd(["a", "b"], ["p", "q"])({"a": logits, "b": logits})
    assert both.keys() == {"a", "b", "p", "q"}
    assert ClassesFromLogitsd(["a", "b"], ["p", "q"], allow_missing_keys=True)({"b": logits}).keys() == {"b", "q"}
    with pytest.raises(KeyError):
        ClassesFromLogitsd("a")({})


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, torch.uint8), (2, torch.uint8), (256, torch.uint8), (257, torch.int32)]
)
def test_classes_come_in_the_smallest_type(channels, expected):
    logits = torch.zeros(channels, 2, 2)
    logits[-1] = 1
    classes = ClassesFromLogitsd("pred")({"pred": logits})["pred"]
    assert classes.dtype == expected
    assert (classes == max(channels - 1, 1)).all()


def test_the_first_of_equal_classes_is_taken():
    logits = torch.randint(3, (5, 40, 41), generator=torch.Generator().manual_seed(0)).float()
    classes = ClassesFromLogitsd("pred")({"pred": logits})["pred"]
    assert classes[0].tolist() == [
        [int(pixel.tolist().index(pixel.max())) for pixel in row] for row in logits.movedim(0, -1)
    ]


def test_it_sees_each_voxel_alone():
    logits, transform = torch.randn(3, 10, 7), ClassesFromLogitsd("pred")
    assert transform.voxelwise
    whole, parts = transform({"pred": logits}), [transform({"pred": part}) for part in logits.split(4, dim=1)]
    assert torch.equal(torch.cat([part["pred"] for part in parts], dim=1), whole["pred"])
    probabilities = torch.cat([part["probabilities"] for part in parts], dim=1)
    torch.testing.assert_close(probabilities, whole["probabilities"])
