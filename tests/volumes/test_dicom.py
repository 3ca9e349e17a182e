import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, SPACING, VOXELS, change, dicom_series, dicom_slice, turned
from PIL import Image
from pydicom.uid import RLELossless
from volume_files import refused

from pipeline.errors import InputError
from pipeline.volumes.dicom import find_series, is_dicom, list_series
from pipeline.volumes.reading import files_of, read_header, read_volume
from pipeline.volumes.writing import write_label_map


def read_by_itk(folder, uid="1.2.3.4"):
    """The voxels (x, y, z) and the RAS affine as SimpleITK's own reader of series gives them."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def test_a_plain_series(tmp_path):
    volume = read_volume(dicom_series(tmp_path / "scan"), 3)
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    # Along a row x grows, which is to the patient's left: RAS -x. The first voxel lies at LPS (-30, 12.5, 7).
    expected = [[-SPACING[1], 0, 0, 30], [0, -SPACING[0], 0, -12.5], [0, 0, 2.5, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-9)
    assert (volume.format, volume.shape, volume.channels, volume.stored_dims) == ("DICOM", SHAPE, 1, 3)
    assert volume.array.dtype == volume.dtype == np.int16
    assert volume.array.flags["C_CONTIGUOUS"]
    assert volume.file == tmp_path / "scan"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 25, 100, 190])
def test_oblique_and_negative_directions_as_simpleitk_reads_them(tmp_path, degrees, mirrored):
    names = ["b", "1.2.840.7", "z.dcm", "a.IMA"]  # neither sorted nor of one suffix
    dicom_series(tmp_path, axes=turned(degrees, mirrored), names=names)
    array, affine = read_by_itk(tmp_path)
    volume = read_volume(tmp_path, 3)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(volume.array[0], VOXELS)


def test_header_and_nifti_of_the_same_volume_agree(tmp_path):
    dicom_series(tmp_path / "scan", axes=turned())
    volume, header = read_volume(tmp_path / "scan", 3), read_header(tmp_path / "scan", 3)
    np.testing.assert_array_equal(volume.affine, header.affine)
    labels = (volume.array[0] > 500).astype(np.uint8)
    for like in (header, tmp_path / "scan", tmp_path / "scan" / "002.dcm"):
        write_label_map(tmp_path / "labels.nii.gz", labels, like=like)
        written = read_volume(tmp_path / "labels.nii.gz", 3, kind="label")
        np.testing.assert_array_equal(written.array[0], labels)
        np.testing.assert_allclose(written.affine, volume.affine, atol=1e-5)


def test_rescaling(tmp_path):
    stored = (VOXELS + 1024).astype(np.uint16)
    dicom_series(tmp_path / "ct", stored, RescaleSlope=1, RescaleIntercept=-1024)
    volume = read_volume(tmp_path / "ct", 3)
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    assert volume.array.dtype.kind == "i"
    assert read_header(tmp_path / "ct", 3).dtype == np.uint16
    dicom_series(tmp_path / "pet", stored)
    slopes = [1, 0.5, 0.25, 3]  # PET scales each slice by its own factor
    for number, slope in enumerate(slopes):
        change(tmp_path / "pet" / f"{number:03d}.dcm", RescaleSlope=slope, RescaleIntercept=-10)
    expected = stored.astype(float) * slopes - 10
    np.testing.assert_allclose(read_volume(tmp_path / "pet", 3).array[0], expected)


@pytest.mark.parametrize("syntax", ["rle", "JPEG", "JPEG2000", "deflated"])
def test_compressed_files(tmp_path, syntax):
    voxels = np.tile(VOXELS, (4, 4, 1))
    for file in dicom_series(tmp_path, voxels).iterdir():
        header = pydicom.dcmread(file)
        if syntax == "rle":
            header.compress(RLELossless)
        elif syntax == "deflated":
            header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        else:
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.UseCompressionOn()
            writer.SetCompressor(syntax)
            writer.SetFileName(str(tmp_path / "packed.dcm"))
            writer.Execute(sitk.GetImageFromArray(header.pixel_array[None]))
            packed = pydicom.dcmread(tmp_path / "packed.dcm")
            assert packed.file_meta.TransferSyntaxUID.is_compressed
            (tmp_path / "packed.dcm").unlink()
            header.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
            header.PixelData = packed.PixelData
            header["PixelData"].is_undefined_length = True
        header.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path, 3).array[0], voxels)
    last = tmp_path / "003.dcm"
    whole = last.read_bytes()
    for end in (len(whole) - 20, len(whole) // 2, 300):
        last.write_bytes(whole[:end])
        assert "003.dcm" in problem(tmp_path, r"truncated|cannot be read")


def test_a_syntax_that_cannot_be_decoded(tmp_path):
    for file in dicom_series(tmp_path).iterdir():
        header = pydicom.dcmread(file)
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        header.PixelData = pydicom.encaps.encapsulate([b"no stream of HTJ2K at all"])
        header["PixelData"].is_undefined_length = True
        header.save_as(file)
    assert "000.dcm" in problem(tmp_path, r"cannot be decoded \(High-Throughput JPEG 2000.*gdcmconv --raw")


def problem(path, text, dims=3):
    """Assert that a path is refused with case, file and remedy, and return the file that is named."""
    with pytest.raises(InputError, match=text) as caught:
        read_volume(path, dims, case="c7")
    assert caught.value.case == "c7"
    assert caught.value.remedy
    return caught.value.file


def test_series_of_one_folder_are_told_apart(tmp_path):
    dicom_series(tmp_path, SeriesDescription="thin")
    dicom_series(tmp_path, VOXELS[:8] + 1, names=list("wxyz"), SeriesInstanceUID="1.2.3.5", FrameOfReferenceUID="1.7")
    (tmp_path / "notes.txt").write_text("something that a person wrote")
    (tmp_path / "README").write_text("another text")
    thin, other = list_series(tmp_path)
    assert [path.name for path in thin.paths] == ["000.dcm", "001.dcm", "002.dcm", "003.dcm"]
    assert [path.name for path in other.paths] == list("wxyz")
    assert (thin.uid, other.uid) == ("1.2.3.4", "1.2.3.5")
    refused(tmp_path, 3, r"holds 2 volumes: 4 files of series 1\.2\.3\.4 'thin', the first '000\.dcm'; 4 files of")
    for name, expected in {"002.dcm": VOXELS, "z": VOXELS[:8] + 1, "w": VOXELS[:8] + 1}.items():
        volume = read_volume(tmp_path / name, 3)
        np.testing.assert_array_equal(volume.array[0], expected)
        assert volume.file == tmp_path / name
        assert len(files_of(tmp_path / name, 3)) == 4


def test_a_localizer_of_three_orientations_makes_three_volumes(tmp_path):
    x, y, z = np.eye(3)
    for name, axes in {"a": (x, y), "c": (x, -z), "s": (y, -z)}.items():
        dicom_series(tmp_path, VOXELS, np.stack(axes), names=[f"{name}{number}" for number in range(4)])
    assert [series.paths[0].name for series in list_series(tmp_path)] == ["a0", "c0", "s0"]
    affines = [read_volume(tmp_path / name, 3).affine for name in ("a2", "c2", "s2")]
    assert [np.abs(affine[:3, 2]).argmax() for affine in affines] == [2, 1, 0]


def test_echoes_and_phase_images_at_one_place_make_volumes(tmp_path):
    for name, tags in {
        "a": {"EchoTime": 4.6},
        "b": {"EchoTime": 9.2},
        "c": {"EchoTime": 9.2, "ImageType": ["ORIGINAL", "PRIMARY", "P"]},
    }.items():
        dicom_series(tmp_path, VOXELS + ord(name), names=[f"{number}{name}" for number in range(4)], **tags)
    assert [len(series.files) for series in list_series(tmp_path)] == [4, 4, 4]
    for name in "abc":
        np.testing.assert_array_equal(read_volume(tmp_path / f"2{name}", 3).array[0], VOXELS + ord(name))


def test_image_types_that_follow_one_another_stay_one_volume(tmp_path):
    dicom_series(tmp_path)
    for number in (2, 3):
        change(tmp_path / f"00{number}.dcm", ImageType=["ORIGINAL", "PRIMARY", "HELICAL"], EchoTime=3)
    np.testing.assert_array_equal(read_volume(tmp_path, 3).array[0], VOXELS)


def test_a_missing_slice(tmp_path):
    dicom_series(tmp_path, np.concatenate([VOXELS, VOXELS], axis=2))
    (tmp_path / "004.dcm").unlink()
    named = problem(tmp_path, r"1 of the slices before it are missing: '003\.dcm' and '005\.dcm' are 5 mm apart")
    assert named == str(tmp_path / "005.dcm")
    (tmp_path / "005.dcm").unlink()
    problem(tmp_path, r"2 of the slices before it are missing")


def test_two_slices_at_one_place(tmp_path):
    dicom_series(tmp_path)
    shutil.copyfile(tmp_path / "001.dcm", tmp_path / "copy.dcm")
    assert "copy.dcm" in problem(tmp_path, r"lies at the same place as '001\.dcm'.*time point")


def test_a_gantry_tilt(tmp_path):
    dicom_series(tmp_path)
    for number in range(4):  # tan 15 degrees = 0.268
        change(tmp_path / f"00{number}.dcm", ImagePositionPatient=[-30, 12.5 + 0.268 * 2.5 * number, 7 + 2.5 * number])
    problem(tmp_path, "sheared, as by a gantry tilt of 15 degrees")


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"PixelSpacing": [0.8, 0.8]}, r"has 12 x 16 pixels of 0\.8 x 0\.8 mm, but '000\.dcm' of the same series"),
        ({"FrameOfReferenceUID": "1.9"}, "another frame of reference than '000.dcm'"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.99998, 0.006]}, "is turned against '000.dcm'"),
        ({"ImagePositionPatient": None}, "does not say where it lies"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1, in which 0 is white"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "has pixels of PALETTE COLOR"),
        ({"NumberOfFrames": 3}, r"multi-frame object \(CT Image Storage\).*dcm2niix"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, r"multi-frame object \(Enhanced CT"),
        ({"Rows": None}, "its header has no Rows"),
        ({"Rows": 13}, "is truncated: 384 of 416 bytes of pixels"),
        ({"BitsAllocated": 12}, "pixels of 12 bits"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "Modality LUT"),
    ],
)
def test_a_slice_that_does_not_belong(tmp_path, tags, text):
    dicom_series(tmp_path)
    assert "003.dcm" in problem(change(tmp_path / "003.dcm", **tags), text)
    assert "003.dcm" in problem(tmp_path, text)
    assert "003.dcm" in problem(tmp_path / "001.dcm", text)


def test_mixed_sizes(tmp_path):
    dicom_series(tmp_path)
    dicom_slice(tmp_path / "004.dcm", VOXELS[:8, :, 0].T, (-30, 12.5, 17))
    assert "004.dcm" in problem(tmp_path, "has 12 x 8 pixels .* has 12 x 16 pixels")


def test_directions_that_are_none(tmp_path):
    dicom_series(tmp_path, axes=np.array([[1, 0, 0], [0.6, 0.8, 0]]))
    problem(tmp_path, "no unit vectors at right angles")
    dicom_series(tmp_path, PixelSpacing=[0.8, 0])
    problem(tmp_path, "not two positive numbers")


def test_rounded_directions_are_made_square(tmp_path):
    axes = turned(33).round(4)
    dicom_series(tmp_path, axes=axes)
    affine = read_volume(tmp_path, 3).affine
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(affine, read_by_itk(tmp_path)[1], atol=1e-3)


def test_a_damaged_start_without_a_suffix(tmp_path):
    dicom_series(tmp_path, names=["1", "2", "3", "4"])
    (tmp_path / "4").write_bytes(bytes(1000))
    assert problem(tmp_path, "letters DICM are missing") == str(tmp_path / "4")
    for name in ("1", "2", "3"):
        (tmp_path / name).unlink()
    assert problem(tmp_path, "letters DICM are missing") == str(tmp_path / "4")


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.11", "Basic Text SR Storage"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure Set Storage"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RT Dose Storage"),
    ],
)
def test_objects_without_an_image(tmp_path, uid, name):
    other = dicom_slice(tmp_path / "x", VOXELS[:, :, 0].T, SOPClassUID=uid, SeriesInstanceUID="1.2.3.8")
    assert problem(other, f"holds no image but {name}") == str(other)
    assert problem(tmp_path, f"holds no image, only {name}") == str(tmp_path)
    dicom_series(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path, 3).array[0], VOXELS)


def test_folders_and_files_that_are_no_dicom(tmp_path):
    refused(tmp_path, 3, "holds no DICOM file")
    refused(tmp_path / "missing", 3, "does not exist")
    (tmp_path / "x.dcm").write_bytes(b"something else")
    refused(tmp_path / "x.dcm", 3, "letters DICM are missing")
    (tmp_path / "x.txt").write_text("a text")
    refused(tmp_path / "x.txt", 3, r"unknown suffix '\.txt'")
    assert not is_dicom(tmp_path / "x.txt")


def test_a_label_map_is_refused(tmp_path):
    refused(dicom_series(tmp_path), 3, "a label map is not read from DICOM", kind="label")


def test_a_series_that_changed_is_read_again(tmp_path):
    dicom_series(tmp_path)
    assert read_header(tmp_path, 3).shape == SHAPE
    dicom_slice(tmp_path / "004.dcm", VOXELS[:, :, 0].T, (-30, 12.5, 17))
    assert read_header(tmp_path, 3).shape == (16, 12, 5)


def test_images_of_two_dimensions(tmp_path):
    dicom_series(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan" / "001.dcm", 2)
    np.testing.assert_array_equal(volume.array[0], VOXELS[:, :, 1].T)  # (row, column), as a picture of it
    assert volume.shape == (SHAPE[1], SHAPE[0])
    assert volume.spacing == pytest.approx(SPACING)
    # Down the rows y grows, to the patient's back: RAS -y. Along a row x grows, to the left: RAS -x.
    expected = [[0, -SPACING[1], 0, 30], [-SPACING[0], 0, 0, -12.5], [0, 0, 2.5, 9.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-9)
    assert files_of(tmp_path / "scan" / "001.dcm", 2) == (tmp_path / "scan" / "001.dcm",)
    refused(tmp_path / "scan", 2, "holds 4 images; this bundle takes 2D images")
    bare = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "SliceThickness": None}
    xray = dicom_slice(
        tmp_path / "xray" / "1.dcm", VOXELS[:, :, 0].T, **bare, PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1]
    )
    for path in (xray, xray.parent):
        volume = read_volume(path, 2)
        np.testing.assert_array_equal(volume.array[0], VOXELS[:, :, 0].T)
        np.testing.assert_allclose(volume.affine, [[0, -0.1, 0, 0], [-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        refused(path, 3, "does not say where it lies") if path.is_file() else problem(path, "does not say where")


@pytest.mark.parametrize("turn", [0, 25])
def test_every_pixel_of_an_image_lies_where_it_lies_in_its_series(tmp_path, turn):
    series = dicom_series(tmp_path, axes=turned(turn))
    image, volume = read_volume(series / "002.dcm", 2), read_volume(series, 3)
    for row, column in ((0, 0), (3, 5), (11, 15)):
        assert image.array[0, row, column] == volume.array[0, column, row, 2]
        np.testing.assert_allclose(image.affine @ [row, column, 0, 1], volume.affine @ [column, row, 2, 1], atol=1e-6)


def test_an_image_and_the_picture_made_of_it_are_read_alike(tmp_path):
    pixels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_volume(dicom_slice(tmp_path / "a.dcm", pixels), 2)
    np.testing.assert_array_equal(image.array, read_volume(tmp_path / "a.png", 2).array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_radiograph_that_shows_0_as_white_is_inverted(tmp_path, dtype):
    pixels = np.arange(12 * 16, dtype=dtype).reshape(12, 16)
    file = dicom_slice(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    image = read_volume(file, 2)
    assert image.array.dtype == dtype
    np.testing.assert_array_equal(image.array[0], np.iinfo(dtype).max - pixels)
    refused(file, 3, "MONOCHROME1, in which 0 is white")


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    dicom_slice(tmp_path / "a" / "1", VOXELS[:, :, 0].T)
    assert read_volume(tmp_path / "a", 3).spacing == pytest.approx((0.7, 0.8, 2.5))
    dicom_slice(tmp_path / "b" / "1", VOXELS[:, :, 0].T, SliceThickness=None)
    problem(tmp_path / "b", "does not say how thick it is")


def test_find_series_by_a_hidden_file(tmp_path):
    hidden = dicom_slice(tmp_path / ".x.dcm", VOXELS[:, :, 0].T)
    assert find_series(hidden, 3).paths == (hidden,)
