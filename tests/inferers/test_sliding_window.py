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
        RollingSum, "_allocate", lambda sums, output: (allocate(sums, output), shapes.append(sums.sums.shape))
    )
    window = SlidingWindow(roi_size=(8, 8), sw_batch_size=2, overlap=0.5)
    image = torch.zeros(1, 2, height, 9)
    for _ in window.slabs(image, one_sided(2)):
        pass
    assert shapes == [(1, 3, 8, 9)]  # those of a row of windows
    assert window.planes_held(image, None) == 8


@pytest.mark.parametrize(("batch_size", "seen"), [(2, [2] * 25 + [1]), (4, [4] * 12 + [3]), (5, [5] * 9 + [4, 2])])
def test_a_batch_goes_on_in_the_next_row_and_no_window_is_alone_unless_the_batch_is_small(batch_size, seen):
    network, window = Full(9, one_sided(2)), SlidingWindow(roi_size=8, sw_batch_size=batch_size, overlap=0.5)
    image = torch.randn(1, 2, 16, 72)  # 3 rows of 17 windows
    expected = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=4, overlap=0.5)(image, network.network)
    torch.testing.assert_close(window(image, network), expected, rtol=1e-4, atol=1e-5)
    assert network.seen == seen


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
        " sums of windows, (1, 'K', 8, 24), are held on the host"
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


@pytest.mark.parametrize("size", [(23, 18), (15, 1, 9), (1, 1, 20), (11, 12, 13)])
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 14])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_classes_in_either_layout(size, classes, dtype):
    """Several images; the outputs' channels of a voxel are neighbours in memory, or not."""
    image = torch.randn(3, 2, *size)
    options = {"roi_size": [min(8, n) for n in size], "sw_batch_size": 3, "overlap": 0.5, "mode": "gaussian"}
    last = torch.channels_last if len(size) == 2 else torch.channels_last_3d

    def network(windows):
        shifts = torch.arange(classes).reshape(-1, *[1] * len(size))
        ramp = torch.arange(windows.shape[-1])
        return (torch.sin(shifts * windows[:, :1] + windows[:, 1:]) * (ramp + 1)).to(dtype)

    expected = SlidingWindowInferer(**options)(image, lambda windows: network(windows).float())
    for layout in (torch.contiguous_format, last):
        window = SlidingWindow(**options)
        result = window(image, lambda windows, f=layout: network(windows).contiguous(memory_format=f))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        assert result.is_contiguous()


@pytest.mark.parametrize("axes", [(), (2,), (2, 4)])
def test_sums_give_the_labels_of_the_means(axes):
    image, network = torch.randn(2, 2, 15, 14, 9), one_sided(3)
    window = SlidingWindow(roi_size=8, sw_batch_size=3, overlap=0.5, mode="gaussian")
    labels = [slab.logits.argmax(1) for slab in window.sums(image, network, mirrored=axes)]
    means = torch.cat([slab.logits for slab in window.slabs(image, network, mirrored=axes)], dim=2)
    assert torch.equal(torch.cat(labels, dim=1), means.argmax(1))

    def sums(net):
        return torch.cat([slab.logits.clone() for slab in window.sums(image, net, mirrored=axes)], dim=2)

    weights = sums(lambda windows: torch.ones_like(windows[:, :1]))
    assert 0 < weights.min() < weights.max()
    torch.testing.assert_close(sums(network), means * weights, rtol=1e-4, atol=1e-4)


def image_with_constant_ends():
    """Planes 0 to 11 are air, 28 to 39 padding: windows of 8 at 0, 4, 28 and 32 are constant, of one row or two."""
    image = torch.randn(2, 2, 40, 12)
    image[:, :, :12], image[:, :, 28:] = torch.tensor([[[[-1.0]], [[0.5]]]]), 0.0
    return image


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_a_constant_window_is_seen_once(batch_size, axes):
    image, network = image_with_constant_ends(), one_sided(2)
    network, options = Full(9, network), {"roi_size": (8, 8), "sw_batch_size": batch_size, "overlap": 0.5}
    window = SlidingWindow(**options, mode="gaussian")
    expected = SlidingWindowInferer(**options, mode="gaussian")(image.flip(axes), network.network).flip(axes)
    result = torch.cat([slab.logits for slab in window.slabs(image, network, mirrored=axes)], dim=2)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    # Rows at 0, 4, ..., 32 of two windows, in two images: 36 windows, of which 8 and 8 are constant.
    assert (window.windows, window.forwards) == (36, 36 - 7 - 7)
    assert sum(network.seen) == 22
    assert max(network.seen) == batch_size


def test_windows_that_dropout_would_tell_apart_are_all_seen():
    """Also where a network is in evaluation mode, and dropout alone is on, as for Monte Carlo samples."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Dropout()).eval()
    network[1].train()
    inferer = SlidingWindow(roi_size=(4, 4), sw_batch_size=2, overlap=0.0)
    inferer(torch.zeros(1, 1, 16, 16), network)
    assert (inferer.windows, inferer.forwards) == (16, 16)


def test_of_many_constants_the_frequent_ones_are_kept():
    image = torch.zeros(1, 2, 80)  # windows of 8 at 0, 8, ..., 72
    image[:, 1] = torch.tensor([1.0, 2, 1, 3, 1, 2, 4, 3, 5, 2]).repeat_interleave(8)
    image[0, 0, 60] = 1.0  # one of those with 3
    network = Full(3, lambda windows: windows.cumsum(2))
    window = SlidingWindow(roi_size=8, sw_batch_size=3, overlap=0)
    expected = torch.cat([part.cumsum(2) for part in image.split(8, dim=2)], dim=2)
    torch.testing.assert_close(window(image, network), expected)
    assert (window.windows, window.forwards) == (10, 10 - 2 - 2)


def test_a_network_in_training_sees_every_window():
    window, network = SlidingWindow(roi_size=4), torch.nn.Dropout(0.5).train()
    window(torch.ones(1, 1, 16, 16), network)
    assert window.forwards == window.windows == 25
    window(torch.ones(1, 1, 16, 16), network.eval())
    assert (window.windows, window.forwards) == (50, 26)


def test_a_window_with_a_nan_is_not_constant():
    image = torch.zeros(1, 1, 16)
    image[0, 0, 3] = torch.nan
    result = SlidingWindow(roi_size=4, overlap=0)(image, lambda windows: windows + 1)
    assert result[0, 0].isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_windows_nowhere_above_a_value_are_background_on_request(classes):
    image = torch.full((1, 2, 32, 8), -1000.0) + torch.rand(1, 2, 32, 8)
    image[0, 1, 13] = -900.0  # windows of 8 at 0, 4, ..., 24: those at 8 and 12 are somewhere above
    options = {"roi_size": (8, 8), "overlap": 0.5, "mode": "gaussian", "sw_batch_size": 2}

    def network(windows):
        return torch.ones(len(windows), classes, 8, 8) * torch.arange(classes).add(1).reshape(-1, 1, 1)

    background = torch.tensor([-10.0] if classes == 1 else [10.0] + [0.0] * (classes - 1)).reshape(-1, 1, 1)

    def oracle(windows):
        empty = (windows <= -950).flatten(1).all(1)
        return torch.where(empty[:, None, None, None], background, network(windows))

    full = Full(2, network)
    window = SlidingWindow(**options, skip_below=-950)
    torch.testing.assert_close(window(image, full), SlidingWindowInferer(**options)(image, oracle))
    assert (window.windows, window.forwards) == (7, 3)  # one of the empty ones tells how many classes there are
    assert window(image[:, :, :8], full)[0].allclose(background)
    assert SlidingWindow(**options)(image, full)[0, 0].max() == 1


def test_a_trained_network_labels_as_with_monai():
    """Some seconds of training, so that classes are not a matter of rounding; the image has a constant margin."""
    torch.manual_seed(0)
    network = UNet(spatial_dims=3, channels=(4, 8), out_channels=3, norm="instance")
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    image = torch.nn.functional.avg_pool3d(torch.randn(1, 1, 40, 28, 24), 5, 1, 2)
    image[:, :, :12] = 0
    truth = (image > 0.05).long() + (image > 0.15)
    for _ in range(15):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(image), truth[:, 0]).backward()
        optimiser.step()
    network.eval()
    options = {"roi_size": (12, 16, 16), "sw_batch_size": 4, "overlap": 0.5, "mode": "gaussian"}
    window = SlidingWindow(**options)
    with torch.no_grad():
        expected = SlidingWindowInferer(**options)(image, network).argmax(1)
        labels = torch.cat([slab.logits.argmax(1) for slab in window.sums(image, network)], dim=1)
    assert (labels == expected).float().mean() >= 0.999
    assert (labels == truth[:, 0]).float().mean() > 0.8  # it has learnt
    assert window.forwards < window.windows
