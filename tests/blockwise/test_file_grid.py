import itertools

import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader
from monai.data import MetaTensor

from pipeline.blockwise.file_grid import FileGrid, boxes_between, grown
from pipeline.transforms.to_grid import ToGridd

ORDERS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in ((1, 1, 1), (-1, 1, -1), (1, -1, -1))
]
BOX = (slice(1, 4), slice(0, 3), slice(2, 4))


def affine_of(order, signs, sizes=(1.0, 1.3, 2.0)):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(sizes) * signs)[list(order)]
    return affine


def whole(array, affine, to_grid):
    image = MetaTensor(torch.from_numpy(array.copy()), affine=torch.from_numpy(affine))
    return to_grid({"image": image})["image"].numpy()


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_boxes_are_turned_as_the_whole_is(order, signs):
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    affine, to_grid = affine_of(order, signs), ToGridd("image", "RAS")
    reader = ArrayReader(array, affine)
    grid = FileGrid.of(reader, to_grid)
    expected = whole(array, affine, to_grid)
    assert grid.turned_size == grid.network_size == expected.shape[1:]
    part = grid.turn(reader.read(grid.in_file(BOX)))
    np.testing.assert_array_equal(part, expected[:, *BOX])
    np.testing.assert_array_equal(grid.turn_back(part[0]), array[0][grid.in_file(BOX)])
    assert grid.along_network(array.shape[1:]) == grid.turned_size


def test_without_a_grid_nothing_is_turned():
    grid = FileGrid.of(ArrayReader(np.zeros((1, 4, 5))), None)
    assert (grid.order, grid.turned_size, grid.network_size) == ((0, 1), (4, 5), (4, 5))
    assert grid.keeps_size


def test_borders_are_counted_from_the_first_voxel_of_the_file():
    grid = FileGrid((1, 0), (False, True), (10, 7), (10, 7))
    assert grid.borders(0, 4) == (0, 4, 8, 10)
    assert grid.borders(1, 3) == (0, 1, 4, 7)  # the file's 0, 3, 6, 7, from behind


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("spacing", [1.1, 0.6, (None, 3.0, 0.9)])
def test_boxes_are_resampled_as_the_whole_is(spacing, mode):
    array = np.random.default_rng(0).normal(size=(2, 9, 8, 7)).astype(np.float32)
    affine, to_grid = affine_of((1, 2, 0), (1, -1, 1)), ToGridd("image", "RAS", spacing, mode)
    reader = ArrayReader(array, affine)
    grid = FileGrid.of(reader, to_grid)
    expected = whole(array, affine, to_grid)
    assert grid.network_size == expected.shape[1:] != grid.turned_size
    for box in boxes_between([[0, 1, n // 2, n] for n in grid.network_size]):
        source = grid.to_turned(box)
        values = torch.from_numpy(grid.turn(reader.read(grid.in_file(source))).copy())
        found = grid.resampled(values, [part.start for part in source], box)
        np.testing.assert_allclose(found, expected[:, *box], rtol=1e-5, atol=1e-6)


def test_a_box_needs_the_voxels_around_its_centres_alone():
    grid = FileGrid((0,), (False,), (10,), (5,))  # the new centres lie at 0.5, 2.5, 4.5, ...
    assert grid.to_turned((slice(1, 3),)) == (slice(2, 6),)
    assert grid.to_network((slice(0, 1),)) == (slice(0, 1),)  # the first centre lies at -0.25
    assert grid.to_network((slice(3, 5),)) == (slice(1, 3),)  # at 1.25 and 1.75


def test_a_box_grows_by_whole_chunks_from_the_last_axis_on():
    assert grown((4, 4, 4), (16, 16, 16), 64) == (4, 4, 4)
    assert grown((4, 4, 4), (16, 16, 16), 64 * 3) == (4, 4, 12)
    assert grown((4, 4, 4), (16, 16, 16), 64 * 9) == (4, 8, 16)
    assert grown((4, 4, 4), (16, 16, 10), 10**9) == (16, 16, 10)
    assert grown((32, 4, 4), (16, 16, 16), 1) == (16, 4, 4)
