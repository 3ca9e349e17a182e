import numpy as np
import pytest
from scipy import ndimage
from two_cells import TRUTH, cells_and_probability, draw, stack

from pipeline.metrics.thinned_segments import ThinnedScores, thinned_scores, thinned_segments


def test_two_cells_grow_to_a_line_in_the_middle():
    mask = draw("""
        .......
        .#...#.
        .#...#.
        .......
    """)
    assert thinned_segments(mask == 1).tolist() == draw("1110222 1110222 1110222 1110222").tolist()


def test_a_line_of_one_pixel_stays():
    mask = draw("##.# ##.# ..## ##.#") == 1
    assert thinned_segments(mask).tolist() == draw("1102 1102 0022 3302").tolist()


def test_no_object_and_only_one():
    assert not thinned_segments(np.zeros((5, 6), bool)).any()
    assert (thinned_segments(draw("...... ..##.. ......") == 1) == 1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_basins_keep_their_objects_and_the_line_parts_them(seed):
    mask = cells_and_probability(seed)[1] > 0.6
    segments = thinned_segments(mask)
    objects, count = ndimage.label(mask)
    assert count > 20
    np.testing.assert_array_equal(segments[mask], objects[mask])
    assert ndimage.label(segments)[1] == count, "no two basins touch and none is in two pieces"
    for row, column in np.argwhere(segments == 0):
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        ids = {segments[at] for at in near if 0 <= at[0] < 96 and 0 <= at[1] < 96} - {0}
        assert len(ids) > 1, "a pixel of the line lies between two basins"


def test_scores_are_averaged_over_the_slices_with_a_cell():
    nan = float("nan")
    split = np.array([[1.0, 0.5, nan], [0.0, 0.8, nan]])
    merge = np.array([[1.0, 1.0, nan], [0.0, 0.2, nan]])
    scores = ThinnedScores((0.25, 0.5), split, merge)
    # 2 * 0.5 * 1 / 1.5 = 2 / 3; 2 * 0.8 * 0.2 / 1 = 0.32
    np.testing.assert_allclose(scores.slice_f_scores, [[1, 2 / 3, nan], [0, 0.32, nan]])
    assert scores.f_scores == pytest.approx([(1 + 2 / 3) / 2, 0.16])
    assert scores.best == 0
    assert scores.score == pytest.approx(5 / 6)


def test_a_measure_sees_the_pixels_of_the_truths_cells_only():
    seen = []

    def measure(table):
        seen.append((table.truth_sizes.tolist(), table.prediction_sizes.tolist()))
        return 0.5, 0.25

    empty = np.zeros_like(TRUTH)
    scores = thinned_scores(measure, stack(TRUTH, empty), stack(TRUTH, TRUTH), np.array([0.5, 0.75]))
    assert seen == [([15, 15], [15, 15])] * 2
    assert scores.thresholds == (0.5, 0.75)
    np.testing.assert_array_equal(scores.split, [[0.5, np.nan]] * 2)
    np.testing.assert_array_equal(scores.merge, [[0.25, np.nan]] * 2)
