import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader
from monai.inferers import SimpleInferer

from pipeline.blockwise import plane_buffer
from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.region_slabs import RegionSlabs, mirrors_of, tiling_of, with_halo
from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.sliding_window import SlidingWindow

WINDOW = SlidingWindow(roi_size=6, sw_batch_size=4, overlap=0.5, mode="gaussian")
BOX = (slice(3, 11), slice(5, 8), slice(0, 9))


def test_the_halo_is_what_windows_see_that_touch_one_voxel():
    assert with_halo((slice(5, 6), slice(2, 9)), (4, 4), (20, 10)) == (slice(2, 9), slice(0, 10))


def network(windows):
    return torch.cat([windows, windows.roll(1, 2), windows.roll(2, 3)], 1)


@pytest.mark.parametrize("inferer", [WINDOW, *(AveragedInferer(WINDOW, kind) for kind in ("mirrors", "none"))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_box_is_that_of_the_whole(inferer, dtype):
    array = np.random.default_rng(0).normal(size=(1, 15, 10, 9)).astype(np.float32)
    image = NetworkImage(ArrayReader(array), FileGrid.of(ArrayReader(array), None))
    slabs = RegionSlabs(inferer, lambda windows: network(windows).to(dtype))
    found = torch.cat([slab.logits for slab in slabs(image, BOX)], 2)
    expected = inferer(torch.from_numpy(array)[None], slabs.network)
    assert found.dtype == torch.float32
    # Exponentials have other last bits where a row of numbers begins elsewhere in memory.
    tolerance = {"rtol": 0, "atol": 0} if inferer is WINDOW else {"rtol": 2e-6, "atol": 1e-6}
    torch.testing.assert_close(found, expected.float()[:, :, *BOX], **tolerance)


def test_mirrored_versions_share_few_planes_of_a_long_volume(monkeypatch):
    monkeypatch.setattr(plane_buffer, "BRICK", 1)
    array = np.random.default_rng(0).normal(size=(1, 61, 7)).astype(np.float32)
    image = NetworkImage(ArrayReader(array, chunk=(1, 7)), FileGrid.of(ArrayReader(array), None))
    window = SlidingWindow(roi_size=(8, 4), overlap=0.25, mode="gaussian")
    inferer = AveragedInferer(window, "mirrors")
    found = torch.cat([slab.logits for slab in RegionSlabs(inferer, network)(image, (slice(24, 61), slice(0, 7)))], 2)
    expected = inferer(torch.from_numpy(array)[None], network)
    torch.testing.assert_close(found, expected[:, :, 24:], rtol=2e-6, atol=1e-6)
    read = [box[0] for box in image.reader.boxes]
    assert len(read) == len(set(map(str, read))) == 61 - 24 + 7


def test_versions_of_an_average():
    assert mirrors_of(AveragedInferer(WINDOW, "none"), 3) == [()]
    assert len(mirrors_of(AveragedInferer(WINDOW, "mirrors"), 3)) == 8
    assert tiling_of(AveragedInferer(WINDOW, "mirrors")) is tiling_of(WINDOW) is WINDOW


@pytest.mark.parametrize(
    ("inferer", "message"),
    [
        (SimpleInferer(), "SimpleInferer predicts no volume block by block"),
        (AveragedInferer(SimpleInferer(), "mirrors"), "SimpleInferer predicts"),
        (AveragedInferer(WINDOW, "dihedral"), "transforms='dihedral' turns the image as a whole"),
        (SlidingWindow(roi_size=6, with_coord=True), "with_coord gives the network more than a window"),
    ],
)
def test_others_are_refused(inferer, message):
    with pytest.raises(InputError, match=message):
        RegionSlabs(inferer, network)
