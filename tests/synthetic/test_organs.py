"""The made-up scans: whatever the grid, the body lies still in world space."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pipeline.synthetic.organs import AIR, KIDNEY, LIVER, ORIENTATIONS, VESSEL, make_organs

SCANS = [make_organs([11, number]) for number in range(10)]


def world(mask, affine):
    """World coordinates (n, 3) in mm of the voxels of a mask."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


def test_a_scan_is_a_function_of_its_seed_alone():
    first, again, other = make_organs(3), make_organs(3), make_organs(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.volume, other.volume)


@pytest.mark.parametrize("scan", SCANS)
def test_types_values_and_classes(scan):
    assert scan.volume.dtype == np.int16
    assert scan.labels.dtype == np.uint8
    assert sorted(scan.volume.shape) == [32, 64, 64]
    assert scan.volume.shape == scan.labels.shape
    assert scan.volume.flags.c_contiguous
    assert np.array_equal(np.unique(scan.labels), [0, LIVER, KIDNEY, VESSEL])
    assert np.median(scan.volume[0, 0]) == pytest.approx(AIR, abs=30)


@pytest.mark.parametrize("scan", SCANS)
def test_grid_is_anisotropic_oblique_and_right_angled(scan):
    spacing = nib.affines.voxel_sizes(scan.affine)
    in_plane, through = np.sort(spacing)[:2], spacing.max()
    assert in_plane[0] == pytest.approx(in_plane[1])
    assert 0.8 <= in_plane[0] <= 1.2
    assert 2 <= through <= 4
    assert np.degrees(nib.affines.obliquity(scan.affine)).max() <= 15
    columns = scan.affine[:3, :3] / spacing
    assert columns.T @ columns == pytest.approx(np.eye(3), abs=1e-12)
    assert scan.affine[3].tolist() == [0, 0, 0, 1]


def test_scans_differ_in_orientation_spacing_and_tilt():
    assert len({nib.aff2axcodes(scan.affine) for scan in SCANS}) >= 4
    assert np.ptp([nib.affines.voxel_sizes(scan.affine).max() for scan in SCANS]) > 0.5
    assert max(np.degrees(nib.affines.obliquity(scan.affine)).max() for scan in SCANS) > 5


@pytest.mark.parametrize("scan", SCANS)
def test_anatomy_is_where_it_belongs_in_world_space(scan):
    liver, kidneys, vessel = (world(scan.labels == label, scan.affine) for label in (LIVER, KIDNEY, VESSEL))
    right, left = kidneys[kidneys[:, 0] > 0], kidneys[kidneys[:, 0] < 0]
    assert liver.mean(0)[0] > 5  # on the body's right
    assert min(len(right), len(left)) > 0.25 * len(kidneys)
    assert right.mean(0)[0] > 8
    assert left.mean(0)[0] < -8
    assert kidneys.mean(0)[1] < liver.mean(0)[1] - 4  # behind the liver
    assert kidneys.mean(0)[2] < liver.mean(0)[2] - 10  # and below it
    assert abs(vessel.mean(0)[0]) < 5  # close to the midline
    assert len(liver) > len(kidneys)


@pytest.mark.parametrize("scan", SCANS)
def test_organs_are_brighter_than_tissue_and_lie_inside_the_body(scan):
    body = ndimage.binary_fill_holes(ndimage.gaussian_filter(scan.volume.astype(float), 1) > -500)
    assert np.mean(body[scan.labels > 0]) > 0.99
    inner = ndimage.binary_erosion(body, iterations=4) & (scan.labels == 0)
    medians = [np.median(scan.volume[scan.labels == label]) for label in (LIVER, KIDNEY, VESSEL)]
    assert np.median(scan.volume[inner]) + 30 < min(medians)
    assert max(medians) == medians[2]


def test_liver_is_one_piece_and_kidneys_are_two():
    for scan in SCANS:
        labels = ndimage.binary_opening(scan.labels == LIVER), scan.labels == KIDNEY
        pieces = [np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:])[::-1] for mask in labels]
        assert pieces[0][0] > 0.95 * labels[0].sum()
        assert pieces[1][:2].sum() > 0.95 * labels[1].sum()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_turns_array_and_affine_together(orientation):
    turned, plain = make_organs(5, orientation=orientation), make_organs(5, orientation="RAS")
    assert "".join(nib.aff2axcodes(turned.affine)) == orientation
    back = nib.as_closest_canonical(nib.Nifti1Image(turned.volume, turned.affine))
    assert np.array_equal(np.asarray(back.dataobj), plain.volume)
    assert back.affine == pytest.approx(plain.affine)
    assert world(turned.labels == LIVER, turned.affine).mean(0) == pytest.approx(
        world(plain.labels == LIVER, plain.affine).mean(0)
    )


def test_shape_can_be_chosen():
    scan = make_organs(1, shape=(40, 48, 20), orientation="PSR")
    assert scan.volume.shape == (48, 20, 40)
