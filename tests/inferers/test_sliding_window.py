import logging

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from pipeline.errors import InputError
from pipeline.inferers.rolling_sum import RollingSum
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")


def blur(image):
    return torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)


def one_sided(spatial_dims):
    """A network that treats no two directions, and no two places of its window, alike."""
    torch.manual_seed(0)
    conv = (torch.nn.Conv2d, torch.nn.Conv3d)[spatial_dims - 2](2, 3, 5, padding=2).requires_grad_(False)
    return lambda image: conv(image) * torch.arange(image.shape[2]).reshape(-1, *[1] * (spatial_dims - 1))


class Full:
    """A network whose memory suffices for so many windows at once; it keeps how many it saw."""

    def __init__(self, at_most, network):
        self.at_most, self.network, self.seen = at_most, network, []

    def __call__(self, windows):
        if len(windows) > self.at_most:
            raise torch.OutOfMemoryError(f"tried to allocate {len(windows)} windows\nand more lines")
        self.seen.append(len(windows))
        return self.network(windows)


def test_an_image_smaller_than_the_window_is_seen_whole():
    image = torch.randn(1, 1, 20, 150)
    window = SlidingWindow(roi_size=(256, 256), sw_batch_size=4, overlap=0.25, mode="gaussian", padding_mode="reflect")
    torch.testing.assert_close(window(image, blur), blur(image))
    network = UNet(channels=(4, 8, 16), norm="batch").eval()
    with torch.no_grad():
        torch.testing.assert_close(window(image, network), network(image))


@pytest.mark.parametrize(
    ("size", "roi"),
    [
        pytest.param((64, 64), (16, 16), id="even"),
        pytest.param((41, 33), (16, 24), id="odd"),
        pytest.param((50, 12), (20, 64), id="smaller than the window along one axis"),
        pytest.param((17, 40), (16, 7), id="one plane more than the window"),
        pytest.param((23, 18, 17), (8, 9, -1), id="3D, and one whole axis"),
        pytest.param((40, 6, 5), (10, 8, 5), id="3D, tall"),
        pytest.param((1, 9, 9), (4, 4, 4), id="3D, one plane"),
    ],
)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(("mode", "batch_size"), [("gaussian", 3), ("constant", 1), ("gaussian", 50)])
def test_the_result_is_that_of_monai(size, roi, overlap, mode, batch_size):
    image, network = torch.randn(2, 2, *size), one_sided(len(size))
    options = {"sw_batch_size": batch_size, "overlap": overlap, "mode": mode, "sigma_scale": 0.2}
    whole_axes = [min(window, n) if window > 0 else n for window, n in zip(roi, size, strict=True)]
    expected = SlidingWindowInferer(roi_size=whole_axes, **options)(image, network)
    torch.testing.assert_close(SlidingWindow(roi_size=roi, **options)(image, network), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_slabs_follow_each_other_and_are_the_whole(batch_size, monkeypatch):
    monkeypatch.setattr("pipeline.inferers.slabs.PIECE", 3 * 3 * 12 * 9)  # three planes of three classes
    image, network = torch.randn(1, 2, 31, 12, 9), one_sided(3)
    window = SlidingWindow(roi_size=(8, 8, 8), sw_batch_size=batch_size, overlap=0.5, mode="gaussian")
    slabs = list(window.slabs(image, network))
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == 31
    assert all(slab.logits.shape == (1, 3, slab.stop - slab.start, 12, 9) for slab in slabs)
    assert max(slab.stop - slab.start for slab in slabs) == 3
    assert torch.equal(torch.cat([slab.logits for slab in slabs], dim=2), window(image, network))


def test_a_slab_comes_as_soon_as_no_window_will_touch_it():
    # Rows of 3 x 3 windows start at planes 0, 4, 8, ..., 24: after row r, what is above plane 4 (r + 1) is final.
    network = Full(1, one_sided(3))
    slabs = SlidingWindow(roi_size=(8, 8, 8), overlap=0.5).slabs(torch.randn(1, 2, 32, 16, 16), network)
    assert [(slab.stop, len(network.seen)) for slab in slabs] == [
        *((4 * row, 9 * row) for row in range(1, 7)),
        (32, 63),
    ]


@pytest.mark.parametrize("height", [20, 40, 400])
def test_the_planes_that_are_held_do_not_grow_with_the_image(height, monkeypatch):
    shapes = []
    allocate = RollingSum._allocate
    monkeypatch.setattr(
        RollingSum, "_allocate", lambda sums, classes: (allocate(sums, classes), shapes.append(sums.sums.shape))
    )
    window = SlidingWindow(roi_size=(8, 8), sw_batch_size=2, overlap=0.5)
    image = torch.zeros(1, 2, height, 9)
    for _ in window.slabs(image, one_sided(2)):
        pass
    assert shapes == [(1, 3, 8 + 4, 9)]  # two windows in a row; a batch that begins with the second ends in the next
    assert window.planes_held(image, None) == 12


def test_where_rows_are_long_no_batch_crosses_them_and_less_is_held():
    network, window = Full(4, one_sided(2)), SlidingWindow(roi_size=8, sw_batch_size=4, overlap=0.5)
    image = torch.randn(1, 2, 16, 72)  # 3 rows of 17 windows
    assert window.planes_held(image, network) == 8
    expected = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=4, overlap=0.5)(image, network.network)
    torch.testing.assert_close(window(image, network), expected, rtol=1e-4, atol=1e-5)
    assert network.seen == [4, 4, 4, 4, 1] * 3


@pytest.mark.parametrize("size", [(23, 30), (15, 14, 9)])
def test_a_mirrored_prediction_is_that_of_the_mirrored_image(size):
    image, network = torch.randn(2, 2, *size), one_sided(len(size))
    window = SlidingWindow(roi_size=8, sw_batch_size=3, overlap=0.25, mode="gaussian")
    for axes in [(2,), (3,), (2, 3), tuple(range(2, image.ndim))]:
        expected = window(image.flip(axes), network).flip(axes)
        slabs = list(window.slabs(image, network, mirrored=axes))
        assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
        actual = torch.cat([slab.logits for slab in slabs], dim=2)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(actual, window(image, network), atol=0.1)


def test_one_image_does_not_change_the_window_of_the_next():
    window = SlidingWindow(roi_size=(32, 32), sw_batch_size=1)
    window(torch.randn(1, 1, 8, 8), blur)
    assert tuple(window.roi_size) == (32, 32)


def test_the_image_stays_as_it_is_even_if_the_network_gives_it_back():
    image = torch.randn(1, 1, 8, 8)
    before = image.clone()
    torch.testing.assert_close(SlidingWindow(roi_size=4, mode="gaussian")(image, lambda window: window), before)
    assert torch.equal(image, before)


def test_metadata_stay_and_half_precision_is_summed_in_single():
    image = MetaTensor(torch.randn(1, 1, 9, 9).half(), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    result = SlidingWindow(roi_size=4, overlap=0.5)(image, lambda window: window)
    assert result.dtype == torch.float32
    assert torch.equal(result.affine, image.affine)


def test_other_outputs_are_left_to_monai():
    image, options = torch.randn(1, 1, 12, 12), {"roi_size": (8, 8), "sw_batch_size": 2, "overlap": 0.5}
    for network in (
        lambda window: (window, 2 * window),
        lambda window: {"a": window, "b": 2 * window},
        lambda window: torch.nn.functional.avg_pool2d(window, 2),
    ):
        torch.testing.assert_close(
            SlidingWindow(**options)(image, network), SlidingWindowInferer(**options)(image, network)
        )
        with pytest.raises(InputError, match="not one tensor of that size"):
            list(SlidingWindow(**options).slabs(image, network))
    coordinates = SlidingWindow(**options, with_coord=True)(image, lambda window, places: window + places[0][2].start)
    assert coordinates.shape == image.shape


def test_options_of_monai_that_change_no_number():
    image, network = torch.randn(1, 2, 20, 12), one_sided(2)
    options = {"roi_size": (8, 8), "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
    expected = SlidingWindow(**options)(image, network)
    for more in (
        {"device": "cpu", "sw_device": "cpu"},
        {"cache_roi_weight_map": True},
        {"cpu_thresh": 10},
        {"buffer_steps": 1, "buffer_dim": 0},
        {"progress": True},
    ):
        assert torch.equal(SlidingWindow(**options, **more)(image, network), expected)
    assert torch.equal(SlidingWindow(**options)(image, network, device="cpu", buffer_steps=1), expected)


def test_bad_overlap():
    with pytest.raises(InputError, match="overlap is 1"):
        SlidingWindow(roi_size=8, overlap=1)


def test_where_memory_is_short_fewer_windows_are_seen_at_once_from_then_on(caplog):
    image, window = torch.randn(1, 2, 40, 24), SlidingWindow(roi_size=8, sw_batch_size=8, overlap=0.5, mode="gaussian")
    expected = SlidingWindow(roi_size=8, overlap=0.5, mode="gaussian")(image, one_sided(2))
    short = Full(3, one_sided(2))
    torch.testing.assert_close(window(image, short), expected, rtol=1e-4, atol=1e-5)
    assert short.seen == [2] * 22 + [1]  # 9 x 5 windows; of 8, 4 and 2 at once, 2 fitted
    assert [record.message for record in caplog.records] == ["memory is short: 2 windows at once instead of 8"]
    ample = Full(100, one_sided(2))
    torch.testing.assert_close(window(image, ample), expected, rtol=1e-4, atol=1e-5)
    assert ample.seen == short.seen
    assert len(caplog.records) == 1


def test_where_a_single_window_does_not_fit_the_sums_move_to_the_host(caplog):
    """The network has room once the sums are gone. "cpu:0" stands for a GPU here: to PyTorch it is the host too."""
    image, network = torch.randn(1, 2, 40, 24), one_sided(2)
    calls = []

    def crowded(windows):
        calls.append(len(windows))
        moved = any("held on the host" in record.message for record in caplog.records)
        if len(calls) > 5 and not moved:
            raise torch.OutOfMemoryError
        return network(windows)

    window = SlidingWindow(roi_size=8, sw_batch_size=2, overlap=0.5, device="cpu:0")
    expected = SlidingWindow(roi_size=8, overlap=0.5)(image, network)
    torch.testing.assert_close(window(image, crowded), expected, rtol=1e-4, atol=1e-5)
    assert calls[:9] == [2] * 6 + [1, 1, 1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


@pytest.mark.parametrize("method", ["_add", "_means"])
def test_where_the_sums_run_out_of_memory_they_move_and_nothing_is_added_twice(method, monkeypatch, caplog):
    image, network = torch.randn(1, 2, 40, 24), one_sided(2)
    expected = SlidingWindow(roi_size=8, sw_batch_size=2, overlap=0.5)(image, network)
    original, calls = getattr(RollingSum, method), []

    def fail_once(sums, *args):
        calls.append(args)
        if len(calls) == 4:
            raise torch.OutOfMemoryError
        return original(sums, *args)

    monkeypatch.setattr(RollingSum, method, fail_once)
    window = SlidingWindow(roi_size=8, sw_batch_size=2, overlap=0.5, device="cpu:0")
    assert torch.equal(window(image, network), expected)
    assert [record.message.split(":")[-1] for record in caplog.records] == [
        " sums of windows, (1, 'K', 12, 24), are held on the host"
    ]


def test_if_nothing_helps_the_reason_and_a_remedy_are_said():
    message = r"memory does not suffice.*tried to allocate 1 windows\. Remedy: .*roi_size.*--device cpu"
    for device in ("cpu", "cpu:0"):
        with pytest.raises(InputError, match=message):
            SlidingWindow(roi_size=8, sw_batch_size=4, device=device)(torch.zeros(1, 2, 20, 20), Full(0, blur))


def test_other_errors_of_a_network_pass():
    def broken(windows):
        raise RuntimeError("expected 3 channels")

    with pytest.raises(RuntimeError, match="expected 3 channels"):
        SlidingWindow(roi_size=8)(torch.zeros(1, 2, 20, 20), broken)
