import numpy as np

from pipeline.metrics.fraction import fraction


def test_part_of_a_whole_or_nothing():
    np.testing.assert_array_equal(fraction([1, 0, 3, 0], [2, 4, 0, 0]), [0.5, 0, np.nan, np.nan])
    assert fraction(1, 4) == 0.25
    np.testing.assert_array_equal(fraction([[1], [2]], [4, 8]), [[0.25, 0.125], [0.5, 0.25]])
