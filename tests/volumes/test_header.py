from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.volumes.header import VolumeHeader, check_affine, check_claim, check_upright, split_axes


def test_spacing_is_the_length_of_each_axis():
    affine = np.array([[3.0, -4, 0, 9], [4, 3, 0, 9], [0, 0, 2, 9], [0, 0, 0, 1]])  # 3^2 + 4^2 = 5^2
    volume = VolumeHeader(Path("a.nii"), "NIfTI", (6, 7, 8), 1, np.dtype("u1"), affine, 3)
    assert volume.spacing == (5, 5, 2)
    slice_of_it = VolumeHeader(Path("a.nii"), "NIfTI", (6, 7), 1, np.dtype("u1"), affine, 3)
    assert slice_of_it.spacing == (5, 5)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ((1, 1), 0, "the sform has a non-finite value or an axis of length 0"),
        ((0, 3), np.nan, "non-finite"),
        ((2, 2), np.inf, "non-finite"),
        ((0, 1), 2e-4, "the sform is sheared"),  # the second axis, 2 mm long, leans by 1e-4
    ],
)
def test_affines_that_no_grid_has(place, value, text):
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])
    check_affine(affine)
    affine[place] = value
    with pytest.raises(InputError, match=text) as caught:
        check_affine(affine, "sform")
    assert caught.value.remedy


@pytest.mark.parametrize(("offset", "ratio", "most"), [(0, 1, 100), (40, 1, 60), (40, 3, 180), (101, 1, 0)])
def test_a_claim_is_held_against_the_file(tmp_path, offset, ratio, most):
    file = tmp_path / "a.raw"
    file.write_bytes(bytes(100))
    check_claim(most, file, offset, ratio)
    with pytest.raises(
        InputError, match=f"claims {most + 1} bytes of voxels, the file holds {most // ratio}"
    ) as caught:
        check_claim(most + 1, file, offset, ratio)
    assert (f"unpack to at most {most}" in caught.value.reason) == (ratio > 1)


@pytest.mark.parametrize(
    ("size", "extra", "spatial_dims", "expected"),
    [
        ((4, 5), (), 2, ((4, 5), 1)),
        ((4, 5, 1), (2,), 2, ((4, 5), 2)),
        ((4, 5, 1), (), 3, ((4, 5, 1), 1)),
        ((4, 5, 6), (1, 3), 3, ((4, 5, 6), 3)),
    ],
)
def test_axes_are_space_or_channels(size, extra, spatial_dims, expected):
    assert split_axes(size, extra, spatial_dims) == expected


@pytest.mark.parametrize(
    ("size", "extra", "spatial_dims", "text"),
    [
        ((4, 0, 6), (), 3, r"axis of size 0: shape \(4, 0, 6\)"),
        ((4, 5, 6), (0,), 3, "axis of size 0"),
        ((4, 5), (), 3, r"one 2D image of \(4, 5\) pixels"),
        ((4, 5, 6), (), 2, "6 slices"),
        ((4, 5, 6), (2, 3), 3, r"several axes beyond space: \(2, 3\)"),
    ],
)
def test_axes_that_fit_no_bundle(size, extra, spatial_dims, text):
    with pytest.raises(InputError, match=text) as caught:
        split_axes(size, extra, spatial_dims)
    assert caught.value.remedy


def test_only_upright_pixels_pass():
    check_upright(1)
    for orientation in range(2, 9):
        with pytest.raises(InputError, match=f"orientation tag {orientation}"):
            check_upright(orientation)
