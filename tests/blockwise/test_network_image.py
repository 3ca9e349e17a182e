import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader

from pipeline.blockwise import network_image
from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.network_image import NetworkImage
from pipeline.errors import InputError

GRID = FileGrid((1, 0), (False, True), (6, 9), (6, 9))


def image(dtype=np.float32, steps=(), **options):
    array = np.arange(54).reshape(1, 9, 6).astype(dtype)
    return NetworkImage(ArrayReader(array, chunk=(4, 2)), GRID, steps, **options)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f4", ">f8"])
def test_boxes_are_turned_float32_and_normalised_in_order(dtype):
    box = (slice(1, 4), slice(2, 7))
    found = image(dtype, [lambda values: values + 1, lambda values: values * 2]).read(box)
    expected = (np.arange(54).reshape(9, 6).T[:, ::-1][box] + 1) * 2
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found[0], expected)


def test_what_is_constant_is_computed_once():
    seen = []
    made = image(steps=[lambda values: seen.append(values.shape) or values - 3])
    made.reader.array[:] = 5
    assert torch.equal(made.read((slice(0, 6), slice(0, 9))), torch.full((1, 6, 9), 2.0))
    assert seen == [(1, 1, 1)]


def test_a_constant_channel_beside_another_hides_nothing():
    array = np.stack([np.zeros((9, 6)), np.arange(54).reshape(9, 6)]).astype(np.float32)
    made = NetworkImage(ArrayReader(array), FileGrid((0, 1), (False, False), (9, 6), (9, 6)))
    np.testing.assert_array_equal(made.read((slice(0, 9), slice(0, 6))), array)


def test_a_step_may_work_in_place():
    made = image(steps=[lambda values: values.zero_()])
    made.read((slice(0, 6), slice(0, 9)))
    assert made.reader.array.max() == 53


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none_are_refused(wrong):
    made = image(np.float64, case="a")
    made.reader.array[0, 3, 3] = wrong
    with pytest.raises(InputError, match="case 'a': holds NaN, infinity, or"):
        made.read((slice(0, 6), slice(0, 9)))


@pytest.mark.parametrize("box", [None, (slice(1, 5), slice(3, 8))])
@pytest.mark.parametrize("most", [1, 8, 17, 1000])
def test_tiles_make_up_a_box_and_end_with_chunks(monkeypatch, box, most):
    monkeypatch.setattr(network_image, "TILE", most)
    covered = np.zeros((6, 9), int)
    for tile in image().tiles(box):
        covered[tile] += 1
    expected = np.zeros((6, 9), int)
    expected[box or ...] = 1
    np.testing.assert_array_equal(covered, expected)
    tiles = list(image().tiles())
    if most == 8:  # one chunk: the second axis runs against the file's, which ends with a chunk of one voxel
        assert {tile[0].start for tile in tiles} == {0, 2, 4}
        assert {tile[1].start for tile in tiles} == {0, 1, 5}


def test_borders_within_a_part():
    assert image().borders(0, 2, slice(1, 5)) == [1, 2, 4, 5]
    assert image().borders(1, 4, slice(1, 9)) == [1, 5, 9]
    assert image().borders(1, 4) == [0, 1, 5, 9]
