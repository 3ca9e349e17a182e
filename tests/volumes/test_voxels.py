import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.volumes.voxels import as_labels, check_finite, count_labels, without_alpha


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.uint64])
def test_integers_are_labels_as_they_are(dtype):
    array = np.array([0, 1, 1], dtype)
    assert as_labels(array) is array


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 11), (np.float32, 24), (np.float64, 53)])
def test_whole_floats_are_labels_as_far_as_they_are_exact(dtype, bits):
    exact = np.array([0, 3, 2**bits - 1], dtype)
    labels = as_labels(exact)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 3, 2**bits - 1]
    assert dtype(2**bits) + dtype(1) == dtype(2**bits)  # from here on, two labels become one
    with pytest.raises(InputError, match=f"{np.dtype(dtype)} labels from {2**bits} on are not exact"):
        as_labels(np.array([0, 2**bits], dtype))


def test_no_voxels_are_no_odd_labels():
    assert as_labels(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize(("odd", "text"), [(0.5, "such as 0.5"), (np.nan, "such as nan"), (-1.25, "such as -1.25")])
def test_other_floats_are_no_labels(odd, text):
    with pytest.raises(InputError, match=f"2 label values are not whole numbers, {text}"):
        as_labels(np.array([1.0, odd, 2.0, odd]))


def test_the_first_voxel_that_is_not_finite_is_named():
    array = np.zeros((2, 3, 4), np.float32)
    check_finite(array)
    array[1, 2, 3] = np.nan
    array[0, 2, 1] = -np.inf
    with pytest.raises(InputError, match=r"2 of 24 voxels are NaN or infinite, the first at \(2, 1\)"):
        check_finite(array)


@pytest.mark.parametrize(("dtype", "opaque"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_an_opaque_alpha_channel_is_taken_off(dtype, opaque):
    array = np.stack([np.arange(6), np.full(6, opaque)]).astype(dtype).reshape(2, 2, 3)
    assert without_alpha(array).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    array[1, 1, 1] = 0
    with pytest.raises(InputError, match="transparent pixels"):
        without_alpha(array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
@pytest.mark.parametrize("shape", [(2, 6), (3, 2, 2), (1, 12)])
def test_voxels_of_each_label_are_counted(dtype, shape):
    labels = np.array([0, 0, 2, 2, 2, 5, 0, 2, 0, 0, 0, 0], dtype).reshape(shape)
    assert count_labels(labels).tolist() == [7, 0, 4, 0, 0, 1]
    assert count_labels(labels, at_least=8).tolist() == [7, 0, 4, 0, 0, 1, 0, 0]
    assert count_labels(labels[:0], at_least=2).tolist() == [0, 0]
