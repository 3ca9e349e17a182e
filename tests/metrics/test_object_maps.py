"""Objects are scored as the map with lines between them that a person would hand in."""

import math

import numpy as np
import pytest
from scipy import ndimage
from two_cells import PREDICTIONS, TRUTH

from pipeline.metrics.object_maps import object_rand_error, object_vrand, with_lines
from pipeline.metrics.rand_error import rand_error
from pipeline.metrics.vrand import vrand

CELLS = ndimage.label(TRUTH)[0]


def test_lines_by_hand():
    objects = [[1, 1, 2, 2], [1, 3, 3, 0], [0, 3, 3, 4]]
    assert with_lines(objects).tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]
    # 1 ends beside 2 and above 3, and 2 above 3; 1 beside 3; 3 beside 4. What ends at the background needs no line.


def test_slices_do_not_touch_each_other():
    assert with_lines([[[1, 1]], [[2, 2]]]).tolist() == [[[1, 1]], [[1, 1]]]


def test_objects_on_two_sides_of_a_line_are_apart():
    random = np.random.default_rng(0)
    seeds = np.zeros((60, 60), int)
    seeds[tuple(random.integers(0, 60, (2, 12)))] = np.arange(1, 13)
    _, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    objects = seeds[tuple(nearest)]  # every pixel belongs to the nearest seed
    pieces = ndimage.label(with_lines(objects))[0]
    for piece in range(1, pieces.max() + 1):
        assert len(np.unique(objects[pieces == piece])) == 1


@pytest.mark.parametrize("name", PREDICTIONS)
def test_objects_that_do_not_touch_score_as_their_mask(name):
    objects = ndimage.label(PREDICTIONS[name] > 0.5)[0]
    assert object_rand_error(CELLS, objects) == pytest.approx(rand_error(TRUTH, PREDICTIONS[name], [0.5]))
    assert object_vrand(CELLS, objects) == pytest.approx(vrand(TRUTH, PREDICTIONS[name], [0.5]))


def test_two_objects_that_touch_are_no_merge():
    columns = np.arange(TRUTH.shape[1])
    objects = np.where(columns < TRUTH.shape[1] // 2, 1, 2) * np.ones(TRUTH.shape, int)
    # The line takes the last column of the left cell: 10^2 + 5 + 15^2 pairs, all of them of the truth's 450.
    assert object_rand_error(CELLS, objects) == pytest.approx(1 - 2 * 330 / (450 + 330))
    assert object_rand_error(CELLS, np.ones(TRUTH.shape, int)) == pytest.approx(1 / 3)  # one object of 30 pixels
    assert object_vrand(CELLS, objects) > object_vrand(CELLS, np.ones(TRUTH.shape, int))


def test_nothing_to_find():
    assert math.isnan(object_rand_error(np.zeros((5, 5), int), np.ones((5, 5), int)))
    assert math.isnan(object_vrand(np.zeros((5, 5), int), np.ones((5, 5), int)))
