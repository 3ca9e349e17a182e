"""What does not fit together is said before anything runs, with the settings to change."""

import pytest
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import BasicUNet

from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sizes import beyond, check_sizes
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.unet import UNet

# Two levels of valid convolutions: 18 -> 2, 20 -> 4, ..., each an even number and 16 less.
VALID = UNet(channels=[4, 8], padding="valid")
SAME = UNet(channels=[4, 8])
TILES, WINDOW = OverlapTileInferer(12), SlidingWindow([32, 32])


@pytest.mark.parametrize(
    ("network", "crop_size", "inferer"),
    [
        (VALID, [44, 20], TILES),
        (VALID, None, TILES),
        (VALID, [18, 18], AveragedInferer(TILES)),
        (SAME, [33, 7], WINDOW),
        (SAME, None, AveragedInferer(SlidingWindowInferer([32, 32]))),
        (BasicUNet(spatial_dims=2), [5, 5], TILES),  # tells no sizes
    ],
)
def test_what_fits(network, crop_size, inferer):
    check_sizes(network, crop_size, inferer)


@pytest.mark.parametrize(
    ("network", "crop_size", "inferer", "message"),
    [
        (VALID, [45, 44], TILES, r"crop_size: .*\(45, 44\) voxels. Remedy: make it 44 or 46 on axis 0, 44 on axis 1"),
        (VALID, [12, 18], TILES, "crop_size: .*make it 18 on axis 0"),
        (VALID, [44], TILES, r"crop_size: .*does not fit 2 axes"),
        (SAME, [32, 32, 32], WINDOW, r"crop_size: .*does not fit 2 axes"),
        (VALID, None, WINDOW, "tiling: SlidingWindow .*padding='valid'.*set tiling to .*OverlapTileInferer"),
        (VALID, None, SimpleInferer(), "tiling: SimpleInferer"),
        (VALID, None, AveragedInferer(AveragedInferer(WINDOW)), "tiling: SlidingWindow"),
        (SAME, None, TILES, "tiling: OverlapTileInferer .*SlidingWindow, or network_def#padding to valid"),
        (VALID, [45, 45], WINDOW, "(?s)network_def, crop_size and tiling.*2 problems.*tiling: .*crop_size: "),
    ],
)
def test_what_does_not_fit(network, crop_size, inferer, message):
    with pytest.raises(InputError, match=message):
        check_sizes(network, crop_size, inferer)


def test_how_far_crops_reach_beyond_the_image():
    assert beyond(VALID) == [8, 8]  # 16 voxels less, half of them at each end
    assert beyond(SAME) == [0, 0]
    assert beyond(BasicUNet(spatial_dims=2)) == [0]
