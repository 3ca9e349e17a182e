"""Standardised images have mean 0 and standard deviation 1, as MONAI's own are, and no channel sees another."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensityd

from pipeline.transforms.standardise import BLOCK, Standardised


def run(image):
    return Standardised("image")({"image": image})["image"]


def test_by_hand():
    """1 and 3 have mean 2 and standard deviation 1."""
    assert run(torch.tensor([[1.0, 3.0]])).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("shape", [(1, 7), (2, 33, 1), (3, 20, 31, 17), (1, 2 * BLOCK + 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_as_monai_does(shape, dtype):
    image = (200 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 30).to(dtype)
    expected = NormalizeIntensityd("image", channel_wise=True, dtype=torch.float32)({"image": image.clone()})["image"]
    torch.testing.assert_close(run(image), expected.as_tensor().float(), rtol=1e-5, atol=1e-5)


def test_a_large_offset_costs_no_digits():
    values = np.random.default_rng(0).normal(size=300_000)
    image = torch.from_numpy(values + 1e4)[None]
    done = run(image.float()).double().numpy()[0]
    assert abs(done.std() - 1) < 1e-5
    assert np.abs(done - (values - values.mean()) / values.std()).max() < 2e-3  # float32 near 10,000: steps of 0.001


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_channel_of_one_value_is_0_and_leaves_the_others_alone(value):
    image = torch.full((2, 1001), value)
    image[1, ::2] = value + 1 if value == 0 else 2 * value
    done = run(image)
    assert not done[0].any()
    assert done[1].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_what_is_not_finite_stays_visible():
    assert run(torch.tensor([[1.0, float("nan"), 3.0]])).isnan().all()


def test_the_image_that_came_and_its_meta_data_stay():
    image = MetaTensor(torch.arange(6.0).reshape(1, 2, 3), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    done = run(image)
    assert image.tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    assert torch.equal(done.affine, image.affine)


def test_an_image_that_is_no_block_of_memory():
    image = torch.rand(1, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(image.movedim(1, 2)), run(image).movedim(1, 2), rtol=0, atol=1e-6)
