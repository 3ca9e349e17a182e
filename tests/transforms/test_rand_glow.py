"""A glow is a Gaussian of light where it was drawn, and comes as often as it should."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.transforms.rand_glow import BEYOND, Glow, RandGlowd, glow


@pytest.mark.parametrize("shape", [(31, 51), (11, 21, 5)])
def test_it_is_brightest_at_its_centre_and_falls_as_a_gaussian_does(shape):
    light = glow(shape, Glow(centre=(0.5,) * len(shape), width=0.2, strength=3.0))
    middle = tuple(size // 2 for size in shape)
    assert light[middle] == light.max() == 3.0
    away = (middle[0], middle[1] - 7, *middle[2:])
    assert light[away].item() == pytest.approx(3 * np.exp(-0.5 * (7 / (0.2 * max(shape))) ** 2))
    torch.testing.assert_close(light, light.flip(0).flip(1))


def test_the_centre_may_lie_outside():
    light = glow((20, 20), Glow(centre=(-0.2, 1.2), width=0.5, strength=1.0))
    assert light.argmax() == 19  # the upper right corner
    assert light.max() < 1


def test_every_channel_gets_the_same_and_the_image_stays():
    image = torch.randn(3, 16, 24)
    before = image.clone()
    data = RandGlowd("image", prob=1.0).set_random_state(0)({"image": MetaTensor(image), "label": 1})
    added = data["image"] - image
    assert type(data["image"]) is torch.Tensor
    assert data["label"] == 1
    assert torch.equal(image, before)
    torch.testing.assert_close(added[0], added[2], atol=1e-6, rtol=0)
    assert added.max() > 0.01


def test_draws_stay_in_their_ranges_and_come_as_often_as_they_should():
    transform = RandGlowd("image", strength=2.0, width=(0.2, 0.6), prob=0.25).set_random_state(0)
    draws = [transform.randomize(2) for _ in range(4000)]
    found = [draw for draw in draws if draw is not None]
    assert len(found) / 4000 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    limits = {"width": (0.2, 0.6), "strength": (0.0, 2.0), "centre": (-BEYOND, 1 + BEYOND)}
    for name, (low, high) in limits.items():
        values = np.ravel([getattr(draw, name) for draw in found])
        assert low <= values.min() < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < values.max() <= high, name


def test_how_many_numbers_are_drawn_does_not_depend_on_them():
    states = []
    for prob in (0.0, 1.0):
        transform = RandGlowd("image", prob=prob).set_random_state(7)
        transform({"image": torch.zeros(1, 8, 8)})
        states.append(transform.R.random_sample())
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"strength": -1.0}, "strength"),
        ({"width": (0.0, 1.0)}, "width"),
        ({"width": (2, 1)}, "width"),
        ({"prob": 2}, "prob"),
    ],
)
def test_arguments_out_of_range(arguments, named):
    with pytest.raises(InputError, match=named):
        RandGlowd("image", **arguments)
