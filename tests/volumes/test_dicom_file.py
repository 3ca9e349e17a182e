from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import VOXELS, change, dicom_series, dicom_slice
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import InputError
from pipeline.volumes import dicom_file
from pipeline.volumes.dicom_file import DicomFile, is_dicom, no_dicom_file, read_dicom_file
from pipeline.volumes.reading import read_header

PIXELS = VOXELS[:, :, 0].T


def test_dicom_is_known_by_its_letters(tmp_path):
    assert is_dicom(dicom_slice(tmp_path / "no suffix", PIXELS))
    for content in (b"", b"DICM", bytes(128) + b"DIC", bytes(127) + b"DICM", b"text " * 100):
        (tmp_path / "x.dcm").write_bytes(content)
        assert not is_dicom(tmp_path / "x.dcm")


def test_what_a_header_says(tmp_path):
    file = read_dicom_file(
        dicom_slice(tmp_path / "a", PIXELS, (1, 2, 3), SeriesDescription="T1", EchoTime=4.5, SOPInstanceUID="1.9.9")
    )
    file.check()
    assert (file.holds, file.series, file.description, file.instance) == ("CT Image Storage", "1.2.3.4", "T1", "1.9.9")
    assert file.is_image
    assert file.variant == ("4.5", "ORIGINAL", "PRIMARY", "AXIAL")
    assert (file.dtype, file.syntax) == (np.int16, "Explicit VR Little Endian")
    assert (file.rows, file.columns, file.spacing, file.depth, file.frame) == (12, 16, (0.8, 0.7), 2.5, "1.2.3.9")
    np.testing.assert_array_equal(file.position, [1, 2, 3])
    np.testing.assert_array_equal(file.orientation, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.1]}, {"spacing": (0.2, 0.1)}),
        ({"PixelSpacing": None}, {"spacing": (1, 1)}),
        ({"SpacingBetweenSlices": 3}, {"depth": 3}),
        ({"SpacingBetweenSlices": -3}, {"depth": 3}),
        ({"SliceThickness": None}, {"depth": None}),
        ({"ImagePositionPatient": None}, {"position": None, "orientation": None}),
        ({"ImageOrientationPatient": None}, {"position": None, "orientation": None}),
        ({"ImageType": None}, {"variant": ("None",)}),
        ({"ImageType": "ORIGINAL"}, {"variant": ("None", "ORIGINAL")}),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}, {"dtype": np.uint8}),
        ({"NumberOfFrames": 1}, {"rows": 12}),
    ],
)
def test_tags_that_a_header_may_lack_or_have(tmp_path, tags, expected):
    file = read_dicom_file(dicom_slice(tmp_path / "a", PIXELS, **tags))
    file.check()
    assert {name: getattr(file, name) for name in expected} == expected


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # pydicom, while it writes the file
def test_numbers_that_are_none(tmp_path):
    for tags in ({"PixelSpacing": ["nan", "1"]}, {"SliceThickness": "inf"}):
        file = read_dicom_file(change(dicom_slice(tmp_path / "a", PIXELS), **tags))
        with pytest.raises(InputError, match="not finite"):
            file.check()


def test_a_problem_names_its_file_and_is_raised_anew(tmp_path):
    file = no_dicom_file(tmp_path / "x.dcm")
    errors = []
    for _ in range(2):
        with pytest.raises(InputError, match="letters DICM are missing") as caught:
            file.check()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert errors[0].file == str(tmp_path / "x.dcm")
    assert errors[0].remedy
    DicomFile(Path("sound")).check()


def test_a_file_that_is_not_whole_belongs_to_no_series(tmp_path):
    file = dicom_slice(tmp_path / "a", PIXELS)
    whole = file.read_bytes()
    pixels = whole.index(PIXELS.tobytes())
    file.write_bytes(whole[:-1])
    assert (read_dicom_file(file).series, read_dicom_file(file).problem.reason) == (
        "1.2.3.4",
        "is truncated: 383 of 384 bytes of pixels",  # 12 x 16 of two bytes
    )
    file.write_bytes(whole[: pixels - 12])  # before the element of the pixels
    assert read_dicom_file(file).series == ""
    position = whole.index(b"1.2.3.4")
    file.write_bytes(whole[: position + 5])  # "1.2.3" is the number of another series
    assert read_dicom_file(file).series == ""
    assert "truncated" in read_dicom_file(file).problem.reason


def test_a_compressed_file_without_its_end(tmp_path):
    header = pydicom.dcmread(dicom_slice(tmp_path / "a", PIXELS))
    header.compress(RLELossless)
    header.save_as(tmp_path / "a")
    assert read_dicom_file(tmp_path / "a").problem is None
    whole = (tmp_path / "a").read_bytes()
    for cut in (5, 8, 9, 100):  # the mark has four bytes, and four more of a length, 0
        (tmp_path / "a").write_bytes(whole[:-cut])
        assert "truncated" in read_dicom_file(tmp_path / "a").problem.reason


def test_truncation_at_every_byte(tmp_path):
    dicom_series(tmp_path, VOXELS[:3, :2, :2])
    last = tmp_path / "001.dcm"
    whole = last.read_bytes()
    for end in range(len(whole)):  # 000.dcm alone would be a volume too
        last.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"truncated|damaged|cannot be read") as caught:
            read_header(tmp_path / "000.dcm", 3)
        assert caught.value.file == str(last)


def test_a_deflated_file_unpacks_to_no_more_than_a_bound(tmp_path, monkeypatch):
    header = pydicom.dcmread(dicom_slice(tmp_path / "a", PIXELS))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(tmp_path / "a")
    assert read_dicom_file(tmp_path / "a").problem is None
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[:-30])
    assert "is truncated" in read_dicom_file(tmp_path / "a").problem.reason
    (tmp_path / "a").write_bytes(whole)
    header.Rows += 1
    header.save_as(tmp_path / "fewer")
    assert "is truncated: 384 of 416 bytes of pixels" in read_dicom_file(tmp_path / "fewer").problem.reason
    monkeypatch.setattr(dicom_file, "DEFLATED_LIMIT", 500)
    problem = read_dicom_file(tmp_path / "a").problem
    assert "is deflated, and unpacks to more than 500 bytes" in problem.reason
    assert "dcmconv +te" in problem.remedy


def test_a_3d_image_says_how_far_its_pixels_are_apart(tmp_path):
    for number, (tags, reason) in enumerate(
        [
            ({"PixelSpacing": None}, "does not say how far its pixels are apart"),
            ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.1]}, "does not say how far its pixels are apart"),
            ({"PixelSpacing": [1, 2, 3]}, "two positive numbers"),
            ({"PixelSpacing": 1}, "two positive numbers"),
            ({"PixelSpacing": [-1, 1]}, "two positive numbers"),
            ({"PixelSpacing": [0, 1]}, "two positive numbers"),
        ]
    ):
        folder = dicom_series(tmp_path / str(number), VOXELS, SliceThickness=2.5, **tags)
        for path in (folder, folder / "001.dcm"):
            with pytest.raises(InputError, match=reason) as caught:
                read_header(path, 3)
            assert str(folder) in caught.value.file
        if "positive" in reason:
            with pytest.raises(InputError, match=reason):
                read_header(folder / "001.dcm", 2)
        else:
            assert read_header(folder / "001.dcm", 2).shape == (12, 16)
