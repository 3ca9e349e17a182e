"""Clipping and standardising by given numbers, by hand."""

import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.transforms.clip_and_standardise import ClipAndStandardised

STATISTICS = {"low": -100.0, "high": 200.0, "mean": 50.0, "std": 25.0}


def test_values_are_clipped_and_then_standardised():
    image = MetaTensor(torch.tensor([[[-1000, -100], [0, 75], [200, 3000]]], dtype=torch.int16))
    found = ClipAndStandardised("image", STATISTICS)({"image": image, "id": "a"})
    # (-100 - 50) / 25 = -6, (0 - 50) / 25 = -2, (75 - 50) / 25 = 1, (200 - 50) / 25 = 6
    torch.testing.assert_close(found["image"].as_tensor(), torch.tensor([[[-6.0, -6], [-2, 1], [6, 6]]]))
    assert found["id"] == "a"
    assert torch.equal(found["image"].affine, image.affine)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"std": 0.0}, "std 0.0"), ({"low": 300.0}, "low is 300.0, high 200.0")],
)
def test_numbers_that_make_no_window_are_an_error(change, words):
    with pytest.raises(InputError, match=words):
        ClipAndStandardised("image", {**STATISTICS, **change})


def test_a_missing_number_is_named():
    with pytest.raises(InputError, match="lack mean, std"):
        ClipAndStandardised("image", {"low": 0.0, "high": 1.0})
