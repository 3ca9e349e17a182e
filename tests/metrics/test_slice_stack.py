import numpy as np
import pytest
from two_cells import TRUTH, draw

from pipeline.metrics.slice_stack import THRESHOLDS, label_cells, slice_stack


def test_thresholds_are_tenths():
    assert THRESHOLDS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_a_slice_is_a_stack_of_one():
    truth, prediction = slice_stack(255 * TRUTH.astype(np.uint8), TRUTH.astype(np.float32) / 2)
    assert truth.shape == prediction.shape == (1, 7, 9)
    assert truth.dtype == bool
    assert prediction.dtype == np.float32
    np.testing.assert_array_equal(truth[0], TRUTH == 1)
    stacked = slice_stack(np.stack([TRUTH] * 3), np.stack([TRUTH] * 3))
    assert stacked[0].shape == (3, 7, 9)
    np.testing.assert_array_equal(stacked[0][2], TRUTH == 1)
    assert stacked[1].dtype == np.float64, "a mask serves as a probability"


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
def test_what_is_no_probability_is_refused(bad):
    prediction = TRUTH.astype(float)
    prediction[2, 2] = bad
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        slice_stack(TRUTH, prediction)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"truth has shape \(7, 9\), the prediction \(9, 7\)"):
        slice_stack(TRUTH, TRUTH.T)
    for shape in ((5,), (2, 3, 4, 5), (0, 4)):
        with pytest.raises(ValueError, match="a slice is"):
            slice_stack(np.zeros(shape), np.zeros(shape))


def test_diagonal_neighbours_are_two_cells():
    cells = label_cells(draw("##. .## ..# #..") == 1)
    assert cells.max() == 2
    assert len(np.unique(label_cells(np.eye(4, dtype=bool)))) == 5
