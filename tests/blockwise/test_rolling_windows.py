import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader
from torch import nn

from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.plane_buffer import PlaneBuffer
from pipeline.blockwise.region_slabs import with_halo
from pipeline.blockwise.rolling_windows import REMEMBERED, RollingWindows, touching
from pipeline.errors import InputError
from pipeline.inferers.slabs import joined
from pipeline.inferers.sliding_window import SlidingWindow


def network(windows):
    """Of each window for itself, to the last bit; windows mirrored give others."""
    return torch.cat([windows * (k + 1) + windows.roll(k + 1, 2) / 3 for k in range(2)], 1)


def region(array, tiling, box, mirrored=(), means=True, made=None):
    image = NetworkImage(ArrayReader(array), FileGrid.of(ArrayReader(array), None))
    window, _ = tiling.layout(image.size)
    buffer = PlaneBuffer(image, with_halo(box, window, image.size), 2 * window[0])
    made = made or RollingWindows(tiling, network)
    slabs = list(made.slabs(buffer, image.size, box, mirrored, means)) if means else []
    if not means:
        slabs = [(s.start, s.stop, s.logits.clone()) for s in made.slabs(buffer, image.size, box, mirrored, means)]
        return torch.cat([logits for *_, logits in slabs], 2)
    assert [slab.start for slab in slabs] == [box[0].start, *(slab.stop for slab in slabs[:-1])]
    return torch.cat([slab.logits for slab in slabs], 2)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.625])
@pytest.mark.parametrize("mirrored", [(), (2,), (3, 4)])
def test_means_and_sums_have_the_bits_of_the_whole(overlap, mirrored):
    array = np.random.default_rng(0).normal(size=(1, 19, 13, 11)).astype(np.float32)
    image = torch.from_numpy(array)[None]
    tiling = SlidingWindow(roi_size=(6, 8, 4), sw_batch_size=3, overlap=overlap, mode="gaussian")
    whole, _ = joined(tiling.slabs(image, network, mirrored=mirrored), image)
    sums, _ = joined(tiling.sums(image, network, mirrored=mirrored), image)
    for box in [
        (slice(0, 19), slice(0, 13), slice(0, 11)),
        (slice(7, 12), slice(3, 4), slice(9, 11)),
        (slice(18, 19), slice(0, 5), slice(2, 3)),
    ]:
        assert torch.equal(region(array, tiling, box, mirrored), whole[:, :, *box])
        assert torch.equal(region(array, tiling, box, mirrored, means=False), sums[:, :, *box])


def test_few_constant_windows_are_remembered():
    levels = np.arange(REMEMBERED + 4).repeat(4)
    array = np.broadcast_to(levels[None, :, None], (1, len(levels), 8)).astype(np.float32)
    tiling = SlidingWindow(roi_size=4, overlap=0)
    made = RollingWindows(tiling, lambda windows: windows)
    assert torch.equal(
        region(array, tiling, (slice(0, len(levels)), slice(0, 8)), made=made)[0], torch.from_numpy(array)
    )
    assert list(made.known[()]) == [(float(level),) for level in range(3, REMEMBERED + 4)]
    assert (made.windows, made.forwards) == (2 * (REMEMBERED + 4), REMEMBERED + 4)


def test_a_background_that_comes_again_and_again_is_not_forgotten():
    array = np.zeros((1, 4 * (REMEMBERED + 4), 8), np.float32)
    array[0, :, 4:] = np.arange(1, REMEMBERED + 5).repeat(4)[:, None]
    made = RollingWindows(SlidingWindow(roi_size=4, overlap=0), lambda windows: windows)
    region(array, made.tiling, (slice(0, array.shape[1]), slice(0, 8)), made=made)
    assert (made.windows, made.forwards) == (2 * (REMEMBERED + 4), 1 + REMEMBERED + 4)


def test_another_output_is_refused():
    array = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    for wrong in (nn.Conv2d(1, 1, 3).requires_grad_(False), lambda windows: [windows]):
        made = RollingWindows(SlidingWindow(roi_size=4, overlap=0), wrong)
        with pytest.raises(InputError, match="not one tensor of that size"):
            region(array, made.tiling, (slice(0, 8), slice(0, 8)), made=made)


def test_windows_that_touch():
    box = (slice(4, 6), slice(0, 10))
    assert touching([[0, 3, 6], [0, 4]], (4, 6), box) == [[3], [0, 4]]
    assert touching([[0, 3, 5], [0, 4]], (5, 6), box) == [[0, 3, 5], [0, 4]]
