"""Labels edema 2, core 1 and enhancing 3, as in BraTS, in rows of five voxels."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.transforms.regions import LabelsFromRegionsd, RegionsFromLabelsd, written_labels

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
FAR = 4.0  # a logit: sigmoid(4) = 0.982


def test_a_region_writes_the_label_that_no_later_one_has():
    assert written_labels(BRATS) == [2, 1, 3]
    assert written_labels({"left": [5], "right": [2]}) == [5, 2]
    assert written_labels({"whole": [3, 2, 1]}) == [1]
    assert written_labels({"whole": [1, 2, 3], "core": [3, 1]}) == [2, 1]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"whole": [1, 2, 3], "core": [3]}, r"'whole' has \[1, 2\] that no later"),
        ({"core": [3], "whole": [1, 3]}, "'core' has no label"),
        ({"all": [0, 1], "one": [1]}, "'all' has the label 0, but 0 is the background"),
        ({"one": [0, 1]}, "'one' has the label 0"),
        ({"one": []}, "'one' has no label"),
        ({}, "no region"),
    ],
)
def test_regions_that_no_label_map_can_tell_apart(regions, message):
    with pytest.raises(InputError, match=message):
        written_labels(regions)


def test_each_region_is_a_mask():
    label = MetaTensor(torch.tensor([[[0, 2, 1, 3, 7]]]), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0])))
    masks = RegionsFromLabelsd("label", BRATS)({"label": label})["label"]
    assert masks.dtype == torch.uint8
    assert masks.tolist() == [[[0, 1, 1, 1, 0]], [[0, 0, 1, 1, 0]], [[0, 0, 0, 1, 0]]]
    assert torch.equal(masks.affine, label.affine)


def test_a_label_map_survives_its_regions():
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 3, 4, 5)))
    masks = RegionsFromLabelsd("label", BRATS)({"label": label})["label"]
    logits = (masks.float() - 0.5) * FAR
    assert LabelsFromRegionsd("pred", BRATS)({"pred": logits})["pred"].tolist() == label.tolist()


def test_a_last_region_of_several_labels_survives_as_a_region():
    label = torch.arange(4).reshape(1, 1, 4)
    regions = {"whole": [1, 2, 3], "core": [1, 3]}
    masks = RegionsFromLabelsd("label", regions)({"label": label})["label"]
    written = LabelsFromRegionsd("pred", regions)({"pred": (masks.float() - 0.5) * FAR})["pred"]
    assert written.tolist() == [[[0, 1, 2, 1]]]
    assert RegionsFromLabelsd("label", regions)({"label": written})["label"].tolist() == masks.tolist()


def test_where_regions_contradict_the_last_one_stands():
    """All eight combinations of three regions: inside or not."""
    inside = torch.tensor(list(itertools.product([-FAR, FAR], repeat=3))).T[:, None]
    result = LabelsFromRegionsd("pred", BRATS)({"pred": inside})
    #                    -  enh core both whole .  .  all
    assert result["pred"].tolist() == [[[0, 3, 1, 3, 2, 3, 1, 3]]]
    torch.testing.assert_close(result["probabilities"], 1 / (1 + torch.exp(-inside)))


def test_one_half_is_outside_and_probabilities_can_be_dropped():
    logits = torch.tensor([0.0, 0.001]).expand(3, 1, 2)
    result = LabelsFromRegionsd("pred", BRATS, probabilities_key=None)({"pred": logits})
    assert result["pred"].tolist() == [[[0, 3]]]
    assert result.keys() == {"pred"}


def test_a_network_of_other_regions_is_named():
    with pytest.raises(InputError, match="2 channels, but there are 3 regions"):
        LabelsFromRegionsd("pred", BRATS)({"pred": torch.zeros(2, 1, 2)})


def test_it_sees_each_voxel_alone_and_writes_small_labels():
    logits, transform = torch.randn(3, 10, 7), LabelsFromRegionsd("pred", BRATS)
    assert transform.voxelwise
    whole, parts = transform({"pred": logits}), [transform({"pred": part}) for part in logits.split(4, dim=1)]
    assert torch.equal(torch.cat([part["pred"] for part in parts], dim=1), whole["pred"])
    probabilities = torch.cat([part["probabilities"] for part in parts], dim=1)
    torch.testing.assert_close(probabilities, whole["probabilities"])
    assert whole["pred"].dtype == torch.uint8
    large = LabelsFromRegionsd("pred", {"a": [300]})({"pred": torch.ones(1, 1, 2)})["pred"]
    assert (large.dtype, large.tolist()) == (torch.int32, [[[300, 300]]])
