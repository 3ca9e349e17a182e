import json

import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader
from monai.data import MetaTensor
from monai.transforms import (
    ClipIntensityPercentilesd,
    Compose,
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
)

from pipeline.blockwise import network_image
from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.intensities import fix, split_preprocessing
from pipeline.blockwise.network_image import NetworkImage
from pipeline.errors import InputError
from pipeline.transforms.clip_and_standardise import ClipAndStandardised
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.standardise import Standardised
from pipeline.transforms.to_grid import ToGridd

WINDOW = ScaleIntensityRanged("image", -200.0, 400.0, -1.0, 1.0, clip=True)
CLIP = ClipIntensityPercentilesd("image", 2.5, 97.5, channel_wise=True)
CHAINS = {
    "standardised": [Standardised("image")],
    "percentiles of each channel": [CLIP, Standardised("image")],
    "percentiles of all": [ClipIntensityPercentilesd("image", None, 80), Standardised("image")],
    "lower alone": [ClipIntensityPercentilesd("image", 30, None, channel_wise=True)],
    "not zero": [NormalizeIntensityd("image", nonzero=True, channel_wise=True)],
    "not zero, all channels": [NormalizeIntensityd("image", nonzero=True)],
    "all channels": [NormalizeIntensityd("image")],
    "given": [NormalizeIntensityd("image", subtrahend=3.0, divisor=2.0)],
    "window": [WINDOW],
    "window, then the rest of it": [WINDOW, CLIP, NormalizeIntensityd("image", channel_wise=True), WINDOW],
    "found once": [ClipAndStandardised("image", {"low": -50, "high": 60, "mean": 3, "std": 40})],
    "nothing": [],
}


def array_of(dtype):
    random = np.random.default_rng(0)
    array = random.normal(20, 60, (2, 11, 12, 13)) * random.choice([0, 1], (1, 11, 12, 13))
    array[1] *= 2
    info = (0, 255) if dtype == np.uint8 else (-1000, 1000)
    return array.clip(*info).astype(dtype)


def in_memory(array, affine, transforms):
    image = MetaTensor(torch.from_numpy(array.astype(np.float32)), affine=torch.from_numpy(affine))
    return Compose(transforms)({"image": image})["image"]


def by_boxes(array, affine, transforms, known=()):
    to_grid, steps = split_preprocessing(transforms)
    reader = ArrayReader(array, affine)
    image = NetworkImage(reader, FileGrid.of(reader, to_grid))
    numbers = fix(image, steps, known)
    passes = len(reader.boxes)
    whole = torch.empty(image.channels, *image.size)
    for box in image.tiles():
        whole[:, *box] = image.read(box)
    return whole, numbers, passes


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(network_image, "TILE", 300)
    monkeypatch.setattr("pipeline.blockwise.intensities.TILE", 300)


@pytest.mark.parametrize("grid", [[], [ToGridd("image", "LPS")], [ToGridd("image", spacing=1.4)]])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("chain", CHAINS)
def test_intensities_are_those_in_memory(chain, dtype, grid):
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    transforms = [StrictLoadImaged("image", 3), *grid, *CHAINS[chain]]
    expected = in_memory(array_of(dtype), affine, transforms[1:])
    found, _, _ = by_boxes(array_of(dtype), affine, transforms)
    assert found.dtype == torch.float32
    # Below a million values, MONAI finds the place of a percentile between two neighbours in float32 alone.
    torch.testing.assert_close(found, expected.as_tensor(), rtol=1e-4 if "percent" in chain else 1e-5, atol=1e-4)


def test_a_constant_channel_becomes_0_and_an_empty_one_stays():
    array = np.full((2, 8, 8, 8), 0.1, np.float32)
    array[1] = 0
    assert (by_boxes(array, np.eye(4), [Standardised("image")])[0] == 0).all()
    assert (by_boxes(array, np.eye(4), [NormalizeIntensityd("image", nonzero=True, channel_wise=True)])[0] == 0).all()


def test_what_is_known_costs_no_pass_and_has_the_same_bits():
    array, chain = array_of(np.float32), CHAINS["window, then the rest of it"]
    first, numbers, passes = by_boxes(array, np.eye(4), chain)
    tiles = len(list(NetworkImage(ArrayReader(array), FileGrid.of(ArrayReader(array), None)).tiles()))
    assert passes == (2 + 2 + 1) * tiles  # two for the percentiles of each channel, one for mean and deviation
    second, again, passes = by_boxes(array, np.eye(4), chain, json.loads(json.dumps(numbers)))
    assert passes == 0
    assert json.dumps(again) == json.dumps(numbers)
    assert torch.equal(first, second)


def test_small_whole_numbers_are_counted_in_one_pass():
    array = array_of(np.int16)
    _, _, passes = by_boxes(array, np.eye(4), CHAINS["window, then the rest of it"])
    assert passes < 2 * len(range(0, array[0].size, 300))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (ScaleIntensityd("image"), "ScaleIntensityd in the preprocessing needs the whole image"),
        (ToGridd("image"), "ToGridd in the preprocessing needs the whole image"),
        (ClipIntensityPercentilesd("image", 1, 99, sharpness_factor=10.0), "with a sharpness_factor"),
        (NormalizeIntensityd("image", subtrahend=1.0), "with one of subtrahend and divisor"),
    ],
)
def test_others_are_refused_by_name(step, message):
    with pytest.raises(InputError, match=message) as caught:
        split_preprocessing([StrictLoadImaged("image", 3), Standardised("image"), step])
    assert "Standardised" in caught.value.remedy


def test_what_is_voxelwise_or_of_other_keys_is_taken():
    class Twice:
        voxelwise = True

        def __call__(self, record):
            return {"image": 2 * record["image"]}

    array = array_of(np.float32)
    found, _, _ = by_boxes(array, np.eye(4), [Twice(), ScaleIntensityd("label", allow_missing_keys=True)])
    np.testing.assert_array_equal(found, 2 * array)
