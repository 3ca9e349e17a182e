"""Logits to classes: the most probable of several, or a foreground alone against one half."""

import math

import pytest
import torch
from monai.data import MetaTensor

from pipeline.transforms.classes_from_logits import ClassesFromLogitsd, highest_channel


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


@pytest.mark.parametrize("classes", [2, 3, 4, 14, 256, 257])
@pytest.mark.parametrize("size", [(9,), (1, 7), (13, 5), (6, 1, 11)])
@pytest.mark.parametrize("special", [[], [math.nan], [math.inf, -math.inf]])
def test_the_highest_channel_is_that_of_max(classes, size, special, monkeypatch):
    """In either layout, with equal ones and without, in pieces of 6 voxels, of which 2 lie side by side."""
    monkeypatch.setattr("pipeline.transforms.classes_from_logits.IN_CACHE", 6 * classes)
    monkeypatch.setattr("pipeline.transforms.classes_from_logits.SIDE_BY_SIDE", 2)
    random = torch.Generator().manual_seed(0)
    few = torch.randint(3, (classes, *size), generator=random).float()
    for values in (few, torch.randn(classes, *size, generator=random)):
        for number, value in enumerate(special):
            values.view(-1)[5 + 7 * number] = values.view(-1)[-1 - number] = value
        expected = values.max(0, keepdim=True).indices
        for own in (values, values.movedim(0, -1).contiguous().movedim(-1, 0)):
            assert highest_channel(own).tolist() == expected.tolist()


def test_classes_do_not_depend_on_the_scale_of_a_voxels_logits():
    logits = torch.randn(4, 6, 7)
    scaled = logits * torch.rand(6, 7).add(0.1)
    for channels in (slice(1), slice(4)):
        lean = ClassesFromLogitsd("pred", None)
        assert lean.ignores_scale
        assert torch.equal(lean({"pred": logits[channels]})["pred"], lean({"pred": scaled[channels]})["pred"])
    assert not ClassesFromLogitsd("pred").ignores_scale
