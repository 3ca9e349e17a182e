"""Rounding is no difference, a mistake is one."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.volumes.header import VolumeHeader
from pipeline.volumes.same_grid import grid_difference, turn_between

SPACING = np.array([0.4, 0.4, 6.0])
OBLIQUE = Rotation.from_euler("xyz", [10, -20, 170], degrees=True).as_matrix() * SPACING


def grid(axes=OBLIQUE, origin=(-80, 120, 300), shape=(512, 512, 30)):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return VolumeHeader(Path("a"), "NIfTI", shape, 1, np.dtype("i2"), affine, 3)


def test_a_grid_is_itself():
    assert grid_difference(grid(), grid()) is None
    assert grid_difference(grid(), grid(shape=(512, 512, 31))) == "shape"


@pytest.mark.parametrize(("spacing", "reach"), [(0.0003, 100), (0.0003, 1000), (0.5, 5000)])
def test_a_header_of_float32_is_no_difference(spacing, reach):
    random = np.random.default_rng(0)
    for _ in range(100):
        exact = grid(np.eye(3) * spacing, random.uniform(-reach, reach, 3))
        rounded = grid(exact.affine[:3, :3].astype(np.float32), exact.affine[:3, 3].astype(np.float32))
        assert grid_difference(exact, rounded) is None
        assert grid_difference(rounded, exact) is None
        assert grid_difference(rounded, grid(rounded.affine[:3, :3], exact.affine[:3, 3] + [spacing, 0, 0])) == "origin"


def test_a_qform_close_to_half_a_turn_is_no_difference():
    """A quaternion's first number is the root of what three float32 leave of 1, and these leave next to nothing."""
    random, worst = np.random.default_rng(1), 0.0
    for _ in range(300):
        axes = Rotation.from_rotvec(random.normal(0, 1e-3, 3)).as_matrix() @ np.diag([-1, -1, 1]) * SPACING
        exact, header = grid(axes), nib.Nifti1Header()
        header.set_qform(exact.affine, 1)
        stored = grid(header.get_qform()[:3, :3], header.get_qform()[:3, 3])
        worst = max(worst, turn_between(exact, stored))
        assert grid_difference(exact, stored) is None
    assert worst > 0.01  # degrees: more than the 5 % of a voxel that an origin may be off, at the far end of 512


@pytest.mark.parametrize(("part", "found"), [(0.04, None), (0.06, "origin"), (1, "origin"), (-1, "origin")])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_measured_in_voxels_along_its_axis(axis, part, found):
    assert grid_difference(grid(), grid(origin=np.array([-80, 120, 300]) + part * OBLIQUE[:, axis])) == found


def test_what_is_no_rounding():
    assert grid_difference(grid(), grid(origin=(-80, 150, 300))) == "origin"
    for axis in range(3):
        flip, longer = np.ones(3), np.ones(3)
        flip[axis], longer[axis] = -1, 1.01
        assert grid_difference(grid(), grid(OBLIQUE * flip)) == "direction"
        assert grid_difference(grid(shape=(4, 5, 6)), grid(OBLIQUE * longer, shape=(4, 5, 6))) == "spacing"
    assert grid_difference(grid(), grid(OBLIQUE[:, [1, 0, 2]])) == "direction"


@pytest.mark.parametrize(("slices", "found"), [(2, None), (100, None), (102, "spacing")])
def test_a_stretch_adds_up_over_an_axis(slices, found):
    """0.05 % of each of 101 steps is 5.05 % of a voxel at the far end."""
    stretched = OBLIQUE * [1, 1, 1.0005]
    assert grid_difference(grid(shape=(9, 9, slices)), grid(stretched, shape=(9, 9, slices))) == found


def test_a_turn_is_an_angle_whatever_the_voxels():
    for degrees, found in ((0.1, None), (0.12, "direction"), (5, "direction")):  # 0.002 are 0.115 degrees
        turned = grid(Rotation.from_euler("z", degrees, degrees=True).as_matrix() * SPACING)
        straight = grid(np.diag(SPACING))
        assert grid_difference(straight, turned) == found
        assert turn_between(straight, turned) == pytest.approx(degrees)
    assert turn_between(straight, grid(np.diag([-0.4, 0.4, 6]))) == 180


def test_images_have_two_axes():
    flat = {"axes": np.eye(3), "shape": (9, 9)}
    assert grid_difference(grid(**flat), grid(**flat)) is None
    assert grid_difference(grid(**flat), grid(**flat | {"axes": np.diag([1, 1.01, 1])})) == "spacing"
