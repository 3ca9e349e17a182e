import pytest
import torch
from monai.inferers import SlidingWindowInferer

from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")


def blur(image):
    return torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)


def test_an_image_smaller_than_the_window_is_seen_whole():
    image = torch.randn(1, 1, 20, 150)
    window = SlidingWindow(roi_size=(256, 256), sw_batch_size=4, overlap=0.25, mode="gaussian", padding_mode="reflect")
    torch.testing.assert_close(window(image, blur), blur(image))
    network = UNet(channels=(4, 8, 16), norm="batch").eval()
    with torch.no_grad():
        torch.testing.assert_close(window(image, network), network(image))


@pytest.mark.parametrize(("shape", "roi"), [((40, 33), (16, 24)), ((40, 33, 17), (16, 16, -1)), ((50, 12), (20, 64))])
def test_larger_images_are_tiled_as_monai_tiles_them(shape, roi):
    image = torch.randn(2, 1, *shape)
    network = UNet(spatial_dims=len(shape), channels=(2, 4)).eval()
    options = {"sw_batch_size": 3, "overlap": 0.5, "mode": "gaussian"}
    whole_axes = [min(window, size) if window > 0 else size for window, size in zip(roi, shape, strict=True)]
    with torch.no_grad():
        expected = SlidingWindowInferer(roi_size=whole_axes, **options)(image, network)
        torch.testing.assert_close(SlidingWindow(roi_size=roi, **options)(image, network), expected)


def test_one_image_does_not_change_the_window_of_the_next():
    window = SlidingWindow(roi_size=(32, 32), sw_batch_size=1)
    window(torch.randn(1, 1, 8, 8), blur)
    assert tuple(window.roi_size) == (32, 32)
