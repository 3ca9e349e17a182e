"""Objects that are numbered box by box are those of the whole, to the number."""

import numpy as np
import pytest
from memory_volumes import ArrayStore
from scipy import ndimage

from pipeline.blockwise.object_join import number_objects
from pipeline.transforms.instances import Instancesd


def check(labels, chunk, voxels=1, min_size=0):
    store, numbers = ArrayStore(labels.shape), ArrayStore(labels.shape, np.uint32)
    store.array[:] = labels
    count = number_objects(store, numbers, labels.shape, chunk, min_size, voxels)
    expected = Instancesd("pred", min_size=min_size)({"pred": labels[None]})["pred_instances"][0]
    np.testing.assert_array_equal(numbers.array, expected)
    assert count == expected.max()
    return count, len(numbers.boxes)


@pytest.mark.parametrize("chunk", [(4, 4, 4), (1, 5, 3), (7, 2, 30), (100, 100, 100)])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.45])
@pytest.mark.parametrize("min_size", [0, 5])
def test_random_blobs(chunk, density, min_size):
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.normal(size=(18, 17, 19)), 0.7)
    labels = (noise > np.quantile(noise, 1 - density)).astype(np.uint8) * random.integers(1, 4, noise.shape, np.uint8)
    count, boxes = check(labels, chunk, min_size=min_size)
    assert count > 1 or density > 0.4
    assert boxes > 1 or chunk[0] == 100


@pytest.mark.parametrize("chunk", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize(
    ("drawing", "objects"),
    [
        ("#.#/#.#/###", 1),  # a U, whose arms meet in the last row of boxes alone
        ("###/#.#/###", 1),  # a ring
        ("#../.#./..#", 3),  # corners that touch join nothing
        ("#.#/.../#.#", 4),
        ("#####/....#/###.#/#...#/#####", 1),  # a spiral
        ("#####/#...#/#.#.#/#...#/#####", 2),  # one in another
        ("...", 0),
        ("###", 1),
    ],
)
def test_drawings(drawing, objects, chunk):
    labels = np.array([[letter == "#" for letter in row] for row in drawing.split("/")]).astype(np.uint8)
    assert check(labels, chunk)[0] == objects
    assert check(labels.T.copy(), chunk)[0] == objects
    assert check(np.stack([labels, labels]), (1, *chunk))[0] == objects


def test_sizes_count_over_all_boxes():
    labels = np.zeros((1, 12), np.uint8)
    labels[0, 1:5] = labels[0, 6:9] = labels[0, 11] = 1
    assert check(labels, (1, 2), min_size=4)[0] == 1
    assert check(labels, (1, 2), min_size=3)[0] == 2
    assert check(labels, (1, 2), min_size=5)[0] == 0


def test_more_objects_than_a_small_type_holds():
    labels = np.zeros((1, 700), np.uint8)
    labels[0, ::2] = 1
    assert check(labels, (1, 9))[0] == 350
