"""Grey values changed in one go equal those of MONAI's transforms one by one, given the same parameters."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AdjustContrast, GaussianSmooth, ScaleIntensity, ShiftIntensity

from pipeline.errors import InputError
from pipeline.transforms.rand_grey import Grey, RandGreyd, change

SHAPES = [(1, 24, 17), (3, 16, 16), (2, 9, 12, 7), (1, 1, 13)]
ALWAYS = {f"{name}_prob": 1.0 for name in ("gamma", "scale", "shift", "blur", "noise")}
RANGES = {"gamma": (0.7, 1.5), "scale": 0.2, "shift": 0.3, "blur": (0.5, 1.0), "noise": 0.1}


@pytest.fixture(params=SHAPES, ids=str)
def image(request):
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0))


def one_by_one(image, draw):
    """The same with MONAI's transforms."""
    if draw.gamma is not None:
        image = AdjustContrast(draw.gamma)(image)
    image = ScaleIntensity(minv=None, maxv=None, factor=draw.scale - 1)(image)
    image = ShiftIntensity(draw.shift)(image)
    return image if draw.sigma is None else GaussianSmooth(draw.sigma)(image)


@pytest.mark.parametrize(
    "draw",
    [
        Grey(),
        Grey(gamma=0.7),
        Grey(scale=1.2),
        Grey(shift=-0.3),
        Grey(gamma=1.4, scale=0.8, shift=0.1),
        Grey(sigma=(0.6, 0.9, 0.3)),
        Grey(gamma=0.9, scale=1.1, shift=-0.2, sigma=(1.0, 0.5, 0.2)),
    ],
    ids=str,
)
def test_equals_monais_transforms_one_by_one(draw, image):
    if draw.sigma is not None:
        draw = Grey(draw.gamma, draw.scale, draw.shift, draw.sigma[: image.ndim - 1])
    before = image.clone()
    torch.testing.assert_close(change(image, draw), one_by_one(image, draw), atol=2e-6, rtol=1e-5)
    assert torch.equal(image, before), "the image itself stays as it is"


def test_the_noise_is_normal_with_its_standard_deviation():
    noise = change(torch.zeros(1, 300, 300), Grey(noise=0.25, seed=3))
    # Of n = 90,000 values the mean is within 4 / sqrt(n) of 0, the deviation within 4 / sqrt(2 n) of 1, relatively.
    assert abs(noise.mean().item()) < 0.25 * 4 / 300
    assert noise.std().item() == pytest.approx(0.25, rel=4 / (300 * 2**0.5))
    assert not torch.equal(noise, change(torch.zeros(1, 300, 300), Grey(noise=0.25, seed=4)))


def test_a_constant_image_has_no_contrast_to_change():
    torch.testing.assert_close(change(torch.full((1, 8, 8), 3.0), Grey(gamma=0.5)), torch.full((1, 8, 8), 3.0))


def test_a_blur_of_no_width_is_none():
    image = torch.randn(1, 8, 9)
    assert torch.equal(change(image, Grey(sigma=(0.0, 0.0))), image)


def test_draws_stay_in_their_ranges_and_fill_them():
    transform = RandGreyd("image", **RANGES, **ALWAYS).set_random_state(0)
    draws = [transform.randomize(2) for _ in range(2000)]
    limits = {"gamma": (0.7, 1.5), "scale": (0.8, 1.2), "shift": (-0.3, 0.3), "noise": (0.0, 0.1)}
    found = {name: [getattr(draw, name) for draw in draws] for name in limits}
    found["sigma"], limits["sigma"] = np.ravel([draw.sigma for draw in draws]), (0.5, 1.0)
    for name, (low, high) in limits.items():
        assert low <= min(found[name]) < low + 0.01 * (high - low), name
        assert high - 0.01 * (high - low) < max(found[name]) <= high, name


def test_each_part_comes_as_often_as_it_should():
    chances = {"gamma": 0.1, "scale": 0.3, "shift": 0.5, "blur": 0.7, "noise": 0.9}
    given = {f"{name}_prob": chance for name, chance in chances.items()}
    transform = RandGreyd("image", **RANGES, **given).set_random_state(0)
    draws = [transform.randomize(2) for _ in range(4000)]
    happened = {
        "gamma": [draw.gamma is not None for draw in draws],
        "scale": [draw.scale != 1 for draw in draws],
        "shift": [draw.shift != 0 for draw in draws],
        "blur": [draw.sigma is not None for draw in draws],
        "noise": [draw.noise is not None for draw in draws],
    }
    for name, chance in chances.items():
        assert np.mean(happened[name]) == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 4000) ** 0.5)


def test_the_width_of_a_blur_may_differ_by_axis():
    transform = RandGreyd("image", blur=[[1.0, 1.0], [2.0, 2.0], [0.5, 0.5]], blur_prob=1.0)
    assert transform.randomize(3).sigma == (1.0, 2.0, 0.5)


def test_a_seed_says_all_and_the_rest_of_the_data_stays():
    image = MetaTensor(torch.randn(1, 20, 20))
    data = {"image": image, "label": image, "id": "a"}
    transform = RandGreyd("image", **RANGES, **ALWAYS)
    first, again = (transform.set_random_state(5)(data) for _ in range(2))
    other = transform.set_random_state(6)(data)
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    assert type(first["image"]) is torch.Tensor
    assert first["label"] is image
    assert first["id"] == "a"


def test_every_key_has_draws_of_its_own_and_may_be_missing():
    image = torch.randn(1, 20, 20)
    transform = RandGreyd(["a", "b", "c"], **RANGES, **ALWAYS, allow_missing_keys=True)
    found = transform({"a": image, "b": image})
    assert found.keys() == {"a", "b"}
    assert not torch.equal(found["a"], found["b"])


def test_whole_numbers_become_float32():
    found = RandGreyd("image", shift=0.5, shift_prob=1.0)({"image": np.arange(12, dtype=np.uint8).reshape(1, 3, 4)})
    assert found["image"].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": (1.5, 0.7)}, r"gamma is \(1.5, 0.7\)"),
        ({"gamma": (0.0, 1.0)}, r"gamma is .* above 0"),
        ({"blur": (-1.0, 1.0)}, "blur is"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"shift_prob": 1.5}, "probabilities"),
    ],
)
def test_impossible_arguments_are_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        RandGreyd("image", **arguments)
