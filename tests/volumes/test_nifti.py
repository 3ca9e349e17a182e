import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import LAS, VOXELS, itk_image, nifti, refused

from pipeline.volumes.nifti import OFFSET_LIMIT, TAIL_LIMIT, nifti_header
from pipeline.volumes.reading import read_header, read_volume


def test_headers_of_both_versions_and_of_a_pair(tmp_path):
    two = tmp_path / "two.nii"
    nib.Nifti2Image(VOXELS, LAS).to_filename(two)
    assert isinstance(nifti_header(two), nib.Nifti2Header)
    assert type(nifti_header(nifti(tmp_path / "one.nii.gz"))) is nib.Nifti1Header
    refused(nifti(tmp_path / "pair.nii", magic=b"ni1"), 3, "no NIfTI magic")


def test_nifti_2_and_big_endian(tmp_path):
    image = nib.Nifti2Image(VOXELS, LAS)
    image.to_filename(tmp_path / "two.nii")
    swapped = nib.Nifti1Image(VOXELS.astype(">i2"), LAS, nib.Nifti1Header(endianness=">"))
    swapped.to_filename(tmp_path / "big.nii.gz")
    for name in ("two.nii", "big.nii.gz"):
        volume = read_volume(tmp_path / name, 3)
        np.testing.assert_array_equal(volume.array, VOXELS[None])
        assert volume.array.dtype.isnative
        np.testing.assert_allclose(volume.affine, LAS)


def test_the_fourth_axis_becomes_channels(tmp_path):
    voxels = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    vector = sitk.Compose([itk_image(voxels[..., 0]), itk_image(voxels[..., 1])])
    sitk.WriteImage(vector, str(tmp_path / "vector.nii"))  # stored as (2, 3, 4, 1, 2)
    for file in (nifti(tmp_path / "a.nii.gz", voxels), tmp_path / "vector.nii"):
        volume = read_volume(file, 3)
        assert volume.channels == read_header(file, 3).channels == 2
        np.testing.assert_array_equal(volume.array, np.moveaxis(voxels, -1, 0), err_msg=file.name)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1)])
def test_one_slice_is_a_2d_image_and_keeps_its_place(tmp_path, shape):
    voxels = np.arange(15, dtype=np.int16).reshape(shape)
    volume = read_volume(nifti(tmp_path / "a.nii", voxels), 2)
    np.testing.assert_array_equal(volume.array, voxels.reshape(1, 5, 3))
    np.testing.assert_allclose(volume.affine, LAS)
    assert (volume.spacing, volume.stored_dims) == ((1.5, 2), len(shape))


def test_niftis_of_other_axes(tmp_path):
    refused(nifti(tmp_path / "a.nii"), 2, "holds 4 slices; this bundle takes 2D images")
    refused(nifti(tmp_path / "b.nii", np.zeros((4, 4), np.uint8)), 3, "holds one 2D image")
    refused(nifti(tmp_path / "c.nii", np.zeros((2, 2, 2, 2, 2), np.uint8)), 3, "several axes beyond space")
    refused(nifti(tmp_path / "d.nii", dim=[3, 2, 0, 4, 1, 1, 1, 1]), 3, "axis of size 0")


def test_scaling_of_an_image_is_applied(tmp_path):
    volume = read_volume(nifti(tmp_path / "ct.nii", scl_slope=0.5, scl_inter=-10), 3)
    np.testing.assert_array_equal(volume.array, VOXELS[None] * 0.5 - 10)
    unset = read_volume(nifti(tmp_path / "raw.nii", scl_slope=np.nan, scl_inter=np.nan), 3)
    assert unset.array.dtype == np.int16


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii", VOXELS.astype(np.float32)), 3, kind="label")
    assert volume.array.dtype == np.int64
    np.testing.assert_array_equal(volume.array[0], VOXELS)


def test_labels_that_are_no_labels(tmp_path):
    halves = nifti(tmp_path / "halves.nii", VOXELS / np.float32(2))
    refused(halves, 3, "12 label values are not whole numbers, such as 0.5", kind="label")
    refused(nifti(tmp_path / "s.nii", scl_slope=2, scl_inter=0), 3, "scales its labels by 2.0", kind="label")
    refused(nifti(tmp_path / "4d.nii", np.zeros((2, 3, 4, 3), np.uint8)), 3, "this file has 3", kind="label")
    colours = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(nifti(tmp_path / "rgb.nii", colours), 3, "whole or real numbers are expected", kind="label")
    refused(nifti(tmp_path / "c.nii", VOXELS.astype(np.complex64)), 3, "holds complex64 voxels")


@pytest.mark.parametrize(("code", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_geometry_is_in_millimetres(tmp_path, code, scale):
    file = nifti(tmp_path / "a.nii", xyzt_units=code)  # unknown, metre, millimetre, micron
    assert read_header(file, 3).spacing == pytest.approx((1.5 * scale, 2 * scale, 3 * scale))
    assert sitk.ReadImage(str(file)).GetSpacing() == pytest.approx(read_header(file, 3).spacing)


@pytest.mark.parametrize("forms", [{"sform": None}, {"qform": None}, {}])
def test_one_form_is_enough(tmp_path, forms):
    np.testing.assert_allclose(read_header(nifti(tmp_path / "a.nii", **forms), 3).affine, LAS, atol=1e-6)


def test_geometry_that_is_missing_or_broken(tmp_path):
    refused(nifti(tmp_path / "none.nii", sform=None, qform=None), 3, "neither a qform nor an sform")
    flat = nifti(tmp_path / "flat.nii", np.zeros((4, 4), np.uint8), sform=None, qform=None)
    refused(flat, 2, "neither a qform nor an sform")
    for value in (0, np.nan, np.inf):
        only = nifti(tmp_path / f"{value}.nii", qform=None, srow_x=[value] * 4, srow_y=[value] * 4, srow_z=[value] * 4)
        refused(only, 3, "sform has a non-finite value or an axis of length 0")
        both = nifti(tmp_path / f"both-{value}.nii", srow_x=[value] * 4)
        refused(both, 3, "sform has a non-finite value or an axis of length 0")
    refused(nifti(tmp_path / "q.nii", sform=None, qoffset_x=np.nan), 3, "qform has a non-finite value")


def test_a_sheared_affine_is_refused_where_itk_refuses_it(tmp_path):
    sheared = LAS.copy()
    sheared[0, 1] = 2 * 2e-4  # the second axis, 2 mm long, leans by 2e-4
    file = nifti(tmp_path / "a.nii", sform=sheared, qform=None)
    refused(file, 3, "sform is sheared")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(file))
    sheared[0, 1] = 2 * 1e-5
    assert read_header(nifti(tmp_path / "b.nii", sform=sheared, qform=None), 3).shape == (2, 3, 4)


def test_qform_and_sform_that_disagree(tmp_path):
    flipped, moved, scaled = LAS * [[-1], [1], [1], [1]], LAS.copy(), LAS.copy()
    moved[2, 3] += 0.02
    scaled[2, 2] += 0.02
    for name, other in (("flip", flipped), ("move", moved), ("scale", scaled)):
        refused(nifti(tmp_path / f"{name}.nii", qform=other), 3, "qform and sform disagree: qform .* sform")


def test_the_rounding_of_a_qform_is_no_disagreement(tmp_path):
    # Half a turn plus 0.001: the quaternion's first number, 0.0005, is lost in the float32 of the other three.
    angle = np.pi + 1e-3
    turned = np.diag([0.7, 0.7, 0.7, 1])
    turned[:2, :2] = 0.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    file = nifti(tmp_path / "a.nii", sform=turned, qform=turned)
    assert np.abs(nib.load(file).get_qform() - turned).max() > 1e-4
    np.testing.assert_allclose(read_header(file, 3).affine, turned, atol=1e-6)


def test_header_of_a_large_file_is_cheap(tmp_path):
    file = tmp_path / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((4000, 4000, 3000))
    header.set_sform(LAS, 1)
    header["vox_offset"] = 352
    with file.open("wb") as stream:
        stream.write(header.binaryblock)
        stream.truncate(352 + 4000 * 4000 * 3000 * 2)  # 96 GB of nothing
    assert read_header(file, 3).shape == (4000, 4000, 3000)


def test_packed_voxels_of_another_number_than_the_header_claims(tmp_path):
    raw = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(raw[:-6]))
    refused(tmp_path / "short.nii.gz", 3, "is truncated: 42 of 48 bytes of voxels")
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(raw + bytes(100)))
    np.testing.assert_array_equal(read_volume(tmp_path / "long.nii.gz", 3).array[0], VOXELS)


def test_claims_beyond_the_file_are_refused_before_memory_is_taken(tmp_path):
    huge = [3, 30000, 30000, 30000, 1, 1, 1, 1]  # 54 TB of int16
    refused(nifti(tmp_path / "a.nii", dim=huge), 3, "is truncated: the header claims 54000000000352 bytes")
    refused(nifti(tmp_path / "a.nii.gz", dim=huge), 3, "that unpack to at most")


def test_a_voxel_size_counts_where_a_qform_goes_by_it(tmp_path):
    sizes = [1, -1.5, 2, 3, 1, 1, 1, 1]
    np.testing.assert_allclose(read_header(nifti(tmp_path / "a.nii", qform=None, pixdim=sizes), 3).affine, LAS)
    refused(nifti(tmp_path / "b.nii", pixdim=sizes), 3, r"a negative voxel size \(pixdim\): \[-1.5")
    refused(nifti(tmp_path / "c.nii", sform=None, pixdim=sizes), 3, "a negative voxel size")


def test_what_lies_before_and_behind_the_voxels_is_bounded(tmp_path):
    file, raw = tmp_path / "a.nii.gz", nifti(tmp_path / "a.nii").read_bytes()
    far = bytearray(raw[:352])
    np.frombuffer(far, nib.Nifti1Header().structarr.dtype, count=1)["vox_offset"] = OFFSET_LIMIT
    file.write_bytes(gzip.compress(far + bytes(OFFSET_LIMIT - 352) + raw[352:]))
    np.testing.assert_array_equal(read_volume(file, 3).array[0], VOXELS)
    for name in ("b.nii", "b.nii.gz"):
        refused(nifti(tmp_path / name, vox_offset=OFFSET_LIMIT + 16), 3, "begins its voxels at byte .* far behind any")
    file.write_bytes(gzip.compress(raw + bytes(TAIL_LIMIT), 1))
    np.testing.assert_array_equal(read_volume(file, 3).array[0], VOXELS)
    file.write_bytes(gzip.compress(raw + bytes(TAIL_LIMIT + 1), 1))
    refused(file, 3, "holds more than 67108864 bytes behind its voxels")
    file.write_bytes(gzip.compress(raw + bytes(100))[:-8])  # without its checksum
    refused(file, 3, "cannot be read")
