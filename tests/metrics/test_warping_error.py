import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import rankdata
from two_cells import PREDICTIONS, TRUTH, cells_and_probability, draw, stack

from pipeline.metrics.warping_error import (
    PIECES,
    RING,
    SIMPLE,
    Mistake,
    warp,
    warping_error,
    warping_error_details,
    warping_mistakes,
)

EIGHT = np.ones((3, 3))

# Pixels of each kind that no warping mends, in 63 pixels.
MISTAKES = {
    "identical": {},
    "merged by a pixel": {Mistake.MERGE: 1},
    "merged along the border": {Mistake.MERGE: 5},
    "left cell split": {Mistake.SPLIT: 1},
    "left cell thinner": {},
    "left cell removed": {Mistake.OBJECT_DELETION: 1},
    "hole in the left cell": {Mistake.HOLE_ADDITION: 1},
    "shifted by one column": {},
    "all cell": {Mistake.MERGE: 7},  # a line from the upper to the lower rim, one pixel in each row
    "empty": {Mistake.OBJECT_DELETION: 2},
}


def is_simple(patch):
    """The definition: one 4-connected object beside the centre, and one 8-connected piece of background."""
    patch = patch.astype(bool)
    patch[1, 1] = False
    objects = ndimage.label(patch)[0]
    background = ~patch
    background[1, 1] = False
    beside = {objects[0, 1], objects[1, 0], objects[1, 2], objects[2, 1]} - {0}
    return len(beside) == 1 and ndimage.label(background, EIGHT)[1] == 1


def slow_warp(truth, prediction, threshold):
    """The rounds as they are defined: all pixels that differ, in order, until a round changes nothing."""
    state = np.pad(truth, 1)
    target = np.pad(prediction > threshold, 1)
    certainty = np.pad(np.abs(prediction - threshold), 1)
    before = None
    while True:
        wrong = [(x, y) for x in range(state.shape[1]) for y in range(state.shape[0]) if state[y, x] != target[y, x]]
        if len(wrong) in (0, before):
            return state[1:-1, 1:-1]
        before = len(wrong)
        for x, y in sorted(wrong, key=lambda at: -certainty[at[1], at[0]]):
            if is_simple(state[y - 1 : y + 2, x - 1 : x + 2]):
                state[y, x] = not state[y, x]


def slow_mistake(warped, row, column):
    """The table of kinds as it is defined, relabelling the whole image for one pixel."""

    def ids_around(image):
        labels = ndimage.label(image)[0]
        near = [(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        height, width = image.shape
        return {int(labels[y, x]) for y, x in near if 0 <= y < height and 0 <= x < width}

    cell, ids = warped[row, column], ids_around(warped)
    if ids == {0}:
        return Mistake.OBJECT_DELETION if cell else Mistake.OBJECT_ADDITION
    if len(ids) == 1:
        return Mistake.HOLE_ADDITION if cell else Mistake.HOLE_DELETION
    if len(ids) > 2:
        return Mistake.SPLIT if cell else Mistake.MERGE
    if not cell:
        return Mistake.HOLE_ADDITION
    without = warped.copy()
    without[row, column] = False
    return Mistake.SPLIT if len(ids_around(without)) > 2 else Mistake.HOLE_DELETION


def slow_mistakes(truth, prediction, threshold):
    warped = slow_warp(truth, prediction, threshold)
    kinds = np.zeros(truth.shape, int)
    for row, column in np.argwhere(warped != (prediction > threshold)):
        kinds[row, column] = slow_mistake(warped, row, column)
    return kinds


@pytest.mark.parametrize("centre", [0, 1])
def test_all_256_neighbourhoods(centre):
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        patch[1, 1] = centre
        for bit, (row, column) in enumerate(RING):
            patch[1 + row, 1 + column] = code >> bit & 1
        assert SIMPLE[code] == is_simple(patch), f"neighbourhood\n{patch.astype(int)}"
    assert 0 < sum(SIMPLE) < 256


def test_flipping_a_simple_point_keeps_the_numbers_of_objects_and_holes():
    for code in np.flatnonzero(np.frombuffer(SIMPLE, bool)):
        image = np.zeros((5, 5), bool)
        for bit, (row, column) in enumerate(RING):
            image[2 + row, 2 + column] = code >> bit & 1
        with_centre = image.copy()
        with_centre[2, 2] = True
        assert ndimage.label(image)[1] == ndimage.label(with_centre)[1]
        assert ndimage.label(~image, EIGHT)[1] == ndimage.label(~with_centre, EIGHT)[1]


def test_pieces_by_hand():
    north, south, north_east, east = 1 << 0, 1 << 4, 1 << 1, 1 << 2
    assert PIECES[0] == 0
    assert PIECES[north_east] == 0, "a corner is not beside the centre"
    assert PIECES[north] == PIECES[north | north_east] == PIECES[north | north_east | east] == 1
    assert PIECES[north | east] == PIECES[north | south] == 2
    assert PIECES[0b01010101] == 4
    assert PIECES[255] == 0, "a ring around the centre"


@pytest.mark.parametrize("name", MISTAKES)
def test_named_pairs(name):
    expected = [MISTAKES[name].get(kind, 0) for kind in Mistake][1:]
    details = warping_error_details(TRUTH, PREDICTIONS[name])
    assert details.counts[1:, :, 0].T.tolist() == [expected] * 10
    topological = MISTAKES[name].get(Mistake.SPLIT, 0) + MISTAKES[name].get(Mistake.MERGE, 0)
    assert details.error == pytest.approx(topological / 63)
    assert details.classic_errors == pytest.approx([sum(expected) / 63] * 10)
    three = stack(*[TRUTH] * 3), stack(*[PREDICTIONS[name]] * 3)
    assert warping_error(*three) == pytest.approx(topological / 63)


def test_the_map_shows_where():
    mistakes = warping_mistakes(TRUTH, PREDICTIONS["merged by a pixel"], 0.5)
    assert mistakes.dtype == np.uint8
    assert np.argwhere(mistakes).tolist() == [[3, 4]]
    assert mistakes[3, 4] == Mistake.MERGE


def test_warped_truth_by_hand():
    truth = draw("..... .##.. ..... .....") == 1
    grown = draw("..... .##.. .###. ...#.") == 1
    np.testing.assert_array_equal(warp(truth, grown.astype(float), 0.5), grown)
    apart = draw("..... .##.. ..... .##..") == 1
    np.testing.assert_array_equal(warp(truth, apart.astype(float), 0.5), truth)
    assert np.argwhere(warping_mistakes(truth, apart, 0.5)).tolist() == [[3, 1], [3, 2]]


def test_where_a_cell_of_one_pixel_goes_depends_on_the_order_of_the_flips():
    truth = draw("....... ..###.. .......") == 1
    prediction = np.where(truth, 0.25, 0.0)
    assert np.argwhere(warp(truth, prediction, 0.5)).tolist() == [[1, 4]], "ties from the left"
    prediction[1, 4] = 0.125  # the most certain to be membrane is asked first
    # Right, then left; the middle one has no neighbour left when it is asked.
    assert np.argwhere(warp(truth, prediction, 0.5)).tolist() == [[1, 3]]


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition_on_random_slices(levels, seed):
    random = np.random.default_rng(seed)
    shape = (14, 17)
    truth = ndimage.gaussian_filter(random.normal(size=shape), 1) > -0.1
    prediction = ndimage.gaussian_filter(truth + random.normal(0, 1.5, shape), 0.8).clip(0, 1)
    prediction = np.round(prediction * levels) / levels  # few levels: many ties
    for threshold in (0.0, 0.4, 0.7):
        np.testing.assert_array_equal(warp(truth, prediction, threshold), slow_warp(truth, prediction, threshold))
        np.testing.assert_array_equal(
            warping_mistakes(truth, prediction, threshold), slow_mistakes(truth, prediction, threshold)
        )


def test_equals_the_definition_on_noise_where_every_kind_occurs():
    random = np.random.default_rng(0)
    seen = set()
    for membrane in (0.2, 0.3, 0.4, 0.5, 0.7, 0.9):
        truth, prediction = random.random((2, 12, 12)) > [[[membrane]], [[0.5]]]
        expected = slow_mistakes(truth, prediction, 0.5)
        np.testing.assert_array_equal(warping_mistakes(truth, prediction, 0.5), expected)
        seen |= set(expected.ravel().tolist())
    assert seen == set(Mistake)


def test_a_pixel_of_a_ring_does_not_split_it():
    # Membrane crosses the wall of a ring at the right: it lets the outside in, but the ring stays one cell.
    ring = draw("....... .#####. .#...#. .#...#. .#...#. .#####. .......")
    opened = ring.copy()
    opened[3, 5] = 0
    mistakes = warping_mistakes(ring, opened, 0.5)
    assert np.argwhere(mistakes).tolist() == [[3, 5]]
    assert mistakes[3, 5] == Mistake.HOLE_DELETION
    closed = warping_mistakes(opened, ring, 0.5)
    assert closed[3, 5] == Mistake.HOLE_ADDITION
    # Twice crossed, the second crossing splits what the first one left whole.
    opened[3, 1] = 0
    assert sorted(warping_mistakes(ring, opened, 0.5)[3, [1, 5]]) == [Mistake.HOLE_DELETION] * 2


def test_splits_and_merges_of_a_stack():
    truth = stack(TRUTH, TRUTH, TRUTH)
    prediction = stack(TRUTH, PREDICTIONS["merged along the border"], PREDICTIONS["left cell split"])
    details = warping_error_details(truth, prediction, [0.5])
    assert details.merges.tolist() == [[0, 5, 0]]
    assert details.splits.tolist() == [[0, 0, 1]]
    assert details.error == pytest.approx(6 / (3 * 63))


def test_the_best_threshold_counts():
    soft = np.where(TRUTH == 1, 0.75, 0.0)
    soft[3, 4] = 0.25
    details = warping_error_details(TRUTH, soft)
    assert details.errors == pytest.approx([1 / 63] * 3 + [0] * 7)
    assert (details.thresholds[details.best], details.error) == (0.3, 0)
    assert warping_error(TRUTH, soft, thresholds=[0.2]) == pytest.approx(1 / 63)


@pytest.mark.parametrize("prediction", [TRUTH, np.zeros_like(TRUTH)], ids=["cells", "empty"])
def test_without_a_cell_in_the_truth_it_is_not_applicable(prediction):
    empty = np.zeros_like(TRUTH)
    assert np.isnan(warping_error(empty, prediction))
    assert np.isnan(warping_error(stack(empty, empty), stack(prediction, prediction)))


def test_a_slice_without_a_cell_counts_among_others():
    # What is added there neither splits nor merges; nothing can grow towards it, so each pixel is left.
    details = warping_error_details(stack(TRUTH, np.zeros_like(TRUTH)), stack(TRUTH, TRUTH), [0.5])
    assert details.error == 0
    assert details.counts[Mistake.OBJECT_ADDITION, 0, 1] == 30
    assert details.classic_errors == 30 / (2 * 63)


def test_a_turned_slice_has_the_same_mistakes():
    truth, probability = cells_and_probability(seed=7)
    distinct = rankdata(probability, method="ordinal").reshape(truth.shape) / (truth.size + 1)
    assert len(np.unique(np.abs(distinct - 0.4765))) == truth.size, "no ties, whose order is not the same turned"
    expected = warping_mistakes(truth, distinct, 0.4765)
    assert {Mistake.MERGE, Mistake.SPLIT} <= set(expected.ravel().tolist())
    turned = warping_mistakes(np.rot90(truth), np.rot90(distinct), 0.4765)
    np.testing.assert_array_equal(turned, np.rot90(expected))
