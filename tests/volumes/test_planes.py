"""A body of four marked voxels, in every orientation of the file: where each mark stands on a plane."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from pipeline.volumes.planes import fullest_planes

SHAPE = (5, 6, 7)  # to the right, to the front, up
CENTRE, RIGHT, FRONT, UP = (2, 2, 3), (4, 2, 3), (2, 5, 3), (2, 2, 6)
MARKS = {CENTRE: 1, RIGHT: 2, FRONT: 3, UP: 4}
ORIENTATIONS = ["".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)]


def scan(axcodes, spacing=(1.0, 1.0, 1.0), turn=None):
    """The body as a file of such axes holds it: voxels and affine."""
    voxels = np.zeros(SHAPE, np.int16)
    for place, mark in MARKS.items():
        voxels[place] = mark
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * spacing
    ornt = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    return nib.orientations.apply_orientation(voxels, ornt), affine @ nib.orientations.inv_ornt_aff(ornt, SHAPE)


def where(plane):
    """(row, column) of each mark that is seen."""
    return {int(plane[place]): place for place in zip(*(axis.tolist() for axis in np.nonzero(plane)), strict=True)}


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_planes_are_upright_whatever_the_files_axes_are(axcodes):
    voxels, affine = scan(axcodes, spacing=(0.5, 2.0, 3.0))
    axial, coronal, sagittal = fullest_planes(voxels * 10, voxels, affine)
    # The patient's right is on the left: 4 of 0..4 becomes column 0, the middle stays 2. What is in front is above:
    # 5 of 0..5 becomes row 0 and 2 becomes 3. Up: 6 of 0..6 becomes row 0.
    assert where(axial.labels) == {2: (3, 0), 1: (3, 2), 3: (0, 2)}
    assert where(coronal.labels) == {2: (3, 0), 1: (3, 2), 4: (0, 2)}
    assert where(sagittal.labels) == {1: (3, 3), 3: (3, 0), 4: (0, 3)}
    assert [plane.letters for plane in (axial, coronal, sagittal)] == ["RLAP", "RLSI", "APSI"]
    assert [plane.spacing for plane in (axial, coronal, sagittal)] == [(2.0, 0.5), (3.0, 0.5), (3.0, 2.0)]
    for plane in (axial, coronal, sagittal):
        np.testing.assert_array_equal(plane.image, 10 * plane.labels)
        name, _, place = plane.title.partition(", ")
        axis, number = "ijk".index(place[0]), int(place[4:])
        assert axcodes[axis] in {"axial": "IS", "coronal": "PA", "sagittal": "LR"}[name]
        assert plane.labels.max() > 1
        assert (np.take(voxels, number, axis) > 0).sum() == 3


def test_a_tilted_grid_is_named_after_the_nearest_axes():
    a = np.deg2rad(20)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    voxels, affine = scan("SRA", turn=turn)
    axial, coronal, sagittal = fullest_planes(voxels, voxels, affine)
    assert where(axial.labels) == {2: (3, 0), 1: (3, 2), 3: (0, 2)}
    assert (coronal.letters, sagittal.letters) == ("RLSI", "APSI")


def test_the_plane_with_most_foreground_counts_voxels_of_all_classes():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, :3] = 9  # one voxel each
    labels[3, 2:4, 4] = 1  # two voxels in planes 3 and 4
    planes = {plane.title: plane for plane in fullest_planes(labels, labels)}
    assert set(planes) == {"page 1", "row 2", "column 4"}
    np.testing.assert_array_equal(planes["page 1"].labels, labels[1])
    np.testing.assert_array_equal(planes["column 4"].labels, labels[:, :, 4])


def test_pages_stay_as_they_are_and_nobody_knows_where_they_lie():
    image = np.arange(60).reshape(3, 4, 5)
    page, row, column = fullest_planes(image, np.zeros((3, 4, 5), int))
    assert [plane.title for plane in (page, row, column)] == ["page 1", "row 2", "column 2"]  # the middle ones
    for plane, expected in ((page, image[1]), (row, image[:, 2]), (column, image[:, :, 2])):
        np.testing.assert_array_equal(plane.image, expected)
        assert (plane.letters, plane.spacing) == ("", (1.0, 1.0))


def test_a_single_slice_has_one_plane():
    voxels, affine = scan("LPS")
    (plane,) = fullest_planes(voxels[:, 3:4], voxels[:, 3:4], affine)
    assert (plane.title, plane.letters) == ("coronal, j = 0", "RLSI")


def test_planes_do_not_keep_the_volume_alive():
    voxels, affine = scan("LPS")
    for plane in fullest_planes(voxels, voxels, affine) + fullest_planes(voxels, voxels):
        assert not np.shares_memory(plane.image, voxels)
        held = plane.labels.base
        assert held is None or held.size <= 42
