from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.volumes.dicom_geometry import Placed, at_one_place, orientation_groups, stack

FLAT = np.eye(3)[:2]  # a row runs to the patient's left, a column to the back, so that the normal points to the head


def plane(name, height, sideways=(0, 0), axes=FLAT, **fields):
    """A plane `height` mm along its normal, moved by `sideways` mm along a row and along a column."""
    position = height * np.cross(*axes) + np.asarray(sideways) @ axes
    options = {"rows": 4, "columns": 5, "spacing": (0.5, 2.0), "depth": 3.0, "frame": "1.9", **fields}
    return Placed(Path(name), position=position, orientation=axes, **options)


def refused(planes, file, text):
    with pytest.raises(InputError, match=text) as caught:
        stack(planes)
    assert caught.value.file == file
    assert caught.value.remedy


def test_order_and_affine_by_hand():
    order, affine = stack([plane("b", 10, (7, -8)), plane("c", 12.5, (7, -8)), plane("a", 7.5, (7, -8))])
    assert order == [2, 0, 1]
    # Columns are 2 mm apart along a row, which runs to the left: -x in RAS. Rows are 0.5 mm apart, to the back: -y.
    expected = [[-2, 0, 0, -7], [0, -0.5, 0, 8], [0, 0, 2.5, 7.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected)


def test_a_coronal_stack_runs_along_its_normal():
    axes = np.array([[1.0, 0, 0], [0, 0, -1]])  # to the left, to the feet: the normal points to the back
    order, affine = stack([plane("a", 4, axes=axes), plane("b", 1, axes=axes)])
    assert order == [1, 0]
    np.testing.assert_allclose(affine, [[-2, 0, 0, 0], [0, 0, -3, -1], [0, -0.5, 0, 0], [0, 0, 0, 1]])


def test_one_plane():
    assert stack([plane("a", 0)])[1][2, 2] == 3
    refused([plane("a", 0, depth=None)], "a", "does not say how thick it is")
    assert stack([plane("a", 0, depth=None)], flat=True)[1][2, 2] == 1
    nowhere = Placed(Path("a"), 4, 5, (0.5, 2.0))
    np.testing.assert_array_equal(stack([nowhere], flat=True)[1], np.diag([-2, -0.5, 1, 1]))
    refused([nowhere], "a", "does not say where it lies")
    refused([plane("b", 0), nowhere], "a", "does not say where it lies")


@pytest.mark.parametrize(
    ("heights", "text"),
    [
        ((0, 1, 2, 4, 5), "1 of the slices before it are missing: '2' and '4' are 2 mm apart, other slices 1 mm"),
        ((0, 1, 2, 3, 7.02), "3 of the slices before it are missing"),
        ((0, 2, 3), "1 of the slices before it are missing: '0' and '2'"),
        ((0, 1, 3), "1 of the slices before it are missing: '1' and '3'"),
        ((0, 1, 2.02), "unequal distances: '1' and '2.02' are 1.02 mm apart, other slices 1 mm"),
        ((0, 1, 2, 3.5), "unequal distances"),
        ((0, 1, 1, 2), "lies at the same place as '1'"),
        ((0, 0, 1, 1), "lies at the same place as '0'"),
    ],
)
def test_heights_that_are_not_even(heights, text):
    planes = [plane(str(height), height) for height in heights]
    with pytest.raises(InputError, match=text):
        stack(planes[::-1])


def test_distances_may_differ_by_one_per_cent():
    assert stack([plane(str(z), z) for z in (0, 1, 2.009, 3)])[1][2, 2] == pytest.approx(1)


@pytest.mark.parametrize(("shift", "degrees"), [(0.268, "15"), (0.0175, "1"), (0.0025, None)])
def test_a_gantry_tilt(shift, degrees):
    # 0.0025 over 1 mm, thrice: 0.0075 mm, where 0.003 of the tilt's limit and 0.005 of the pixel's are allowed
    planes = [plane(str(z), z, (0, shift * z)) for z in range(4)]
    if degrees is None:
        np.testing.assert_allclose(stack(planes)[1], np.diag([-2, -0.5, 1, 1]))
    else:
        refused(planes, "1", f"sheared, as by a gantry tilt of {degrees} degrees")


def test_one_plane_out_of_line():
    refused([plane("0", 0), plane("1", 1, (0.3, 0.4)), plane("2", 2)], "1", "is shifted by 0.5 mm within its plane")


def test_planes_that_differ():
    first = plane("a", 0)
    refused(
        [first, plane("b", 1, rows=3)], "b", r"has 3 x 5 pixels of 0\.5 x 2\.0 mm, but 'a' of the same series has 4"
    )
    refused([first, plane("b", 1, spacing=(0.51, 2))], "b", r"has 4 x 5 pixels of 0\.51 x 2 mm, but 'a'")
    refused([first, plane("b", 1, frame="1.8")], "b", "another frame of reference than 'a'")
    turned = np.array([[1, 0.005, 0], [-0.005, 1, 0]])
    refused([first, plane("b", 1, axes=turned)], "b", "is turned against 'a'")


@pytest.mark.parametrize("axes", [[[1, 0, 0], [0.01, 1, 0]], [[1.01, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]])
def test_directions_that_are_none(axes):
    refused([plane("a", 0, axes=np.array(axes, float))], "a", "no unit vectors at right angles")


def test_rounding_is_taken_off_the_directions():
    axes = np.array([[0.8660, 0.5, 0], [-0.5001, 0.8661, 0]])  # 30 degrees, to four decimals and worse
    unit = stack([plane("a", 0, axes=axes)])[1][:3, :3] / [2, 0.5, 3]
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(unit[:, 0], [-np.cos(np.pi / 6), -0.5, 0], atol=1e-4)


def test_groups_of_one_orientation():
    sagittal = np.array([[0.0, 1, 0], [0, 0, -1]])
    mirrored = np.array([[-1.0, 0, 0], [0, 1, 0]])
    almost = FLAT + 0.004
    planes = [plane(str(n), n, axes=axes) for n, axes in enumerate([FLAT, sagittal, almost, mirrored, sagittal])]
    assert orientation_groups(planes) == [[0, 2], [1, 4], [3]]
    assert orientation_groups([]) == []


def test_planes_at_one_place():
    assert not at_one_place([plane("a", 0), plane("b", 1)])
    assert at_one_place([plane("a", 0), plane("b", 1), plane("c", 0.0004, (3, 3))])  # 0.001 of a pixel of 0.5 mm
    assert not at_one_place([plane("a", 0)])
