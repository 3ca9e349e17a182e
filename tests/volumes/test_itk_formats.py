import gzip
import re

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import LAS, PIXELS, VOXELS, itk_image, refused

from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_itk_formats_packed_or_not(tmp_path, suffix, compressed):
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{suffix}"), compressed)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}", 3).array, VOXELS[None])


def test_vector_images_become_channels(tmp_path):
    voxels = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    vector = sitk.Compose([itk_image(voxels[..., 0]), itk_image(voxels[..., 1])])
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(vector, str(tmp_path / name))
        volume = read_volume(tmp_path / name, 3)
        assert volume.channels == read_header(tmp_path / name, 3).channels == 2
        np.testing.assert_array_equal(volume.array, np.moveaxis(voxels, -1, 0), err_msg=name)


def test_2d_metaimage_and_its_slice(tmp_path):
    flat = sitk.GetImageFromArray(PIXELS)  # (y, x)
    flat.SetSpacing([0.5, 0.25])
    flat.SetOrigin([1, -2])
    sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
    sitk.WriteImage(sitk.JoinSeries(flat), str(tmp_path / "slice.mha"))
    expected = [[-0.5, 0, 0, -1], [0, -0.25, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]]
    for name, dims in (("flat.mha", 2), ("slice.mha", 3)):
        volume = read_volume(tmp_path / name, 2)
        np.testing.assert_array_equal(volume.array, PIXELS.T[None])
        np.testing.assert_allclose(volume.affine, expected)
        assert volume.stored_dims == dims
    refused(tmp_path / "flat.mha", 3, "holds one 2D image")


@pytest.mark.parametrize(
    ("line", "damaged", "text"),
    [
        ("Offset = -10 20 30", "Offset = inf 20 30", "Offset is not finite"),
        ("Offset = -10 20 30", "Offset = ten 20 30", "Offset is no list of numbers: ten 20 30"),
        ("ElementSpacing = 1.5 2 3", "ElementSpacing = nan 2 3", "ElementSpacing is not finite"),
        ("ElementSpacing = 1.5 2 3", "ElementSpacing = 0 2 3", "an axis of length 0"),
        ("TransformMatrix = 1 0 0", "TransformMatrix = 1 0.1 0", "affine is sheared"),
    ],
)
def test_metaimage_geometry_that_is_broken(tmp_path, line, damaged, text):
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mha"))
    whole = (tmp_path / "a.mha").read_bytes()
    assert line.encode() in whole
    (tmp_path / "a.mha").write_bytes(whole.replace(line.encode(), damaged.encode()))
    refused(tmp_path / "a.mha", 3, text)


def test_more_axes_and_voxels_that_are_no_numbers(tmp_path, monkeypatch):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 2, 2, 2)), isVector=False), str(tmp_path / "4d.mha"))
    refused(tmp_path / "4d.mha", 3, "has 4 axes")
    sitk.WriteImage(itk_image(), str(tmp_path / "text.nrrd"))
    text = (tmp_path / "text.nrrd").read_bytes().replace(b"encoding: raw", b"encoding: text")
    (tmp_path / "text.nrrd").write_bytes(text)
    refused(tmp_path / "text.nrrd", 3, "of text or of several files")
    monkeypatch.setattr(sitk, "GetPixelIDValueAsString", lambda number: "complex of 32-bit float")
    sitk.WriteImage(itk_image(), str(tmp_path / "complex.mha"))
    refused(tmp_path / "complex.mha", 3, "holds voxels of type 'complex of 32-bit float'")


def test_truncated_voxels_beside_a_header(tmp_path):
    for packed in (False, True):
        sitk.WriteImage(itk_image(), str(tmp_path / "a.mhd"), packed)
        voxels = tmp_path / ("a.zraw" if packed else "a.raw")
        voxels.write_bytes(voxels.read_bytes()[:-8])
        refused(tmp_path / "a.mhd", 3, "truncated")
        voxels.unlink()
        with pytest.raises(InputError, match="does not exist") as caught:
            read_volume(tmp_path / "a.mhd", 3)
        assert caught.value.file == str(voxels)


def test_packed_voxels_of_another_number_than_the_header_claims(tmp_path):
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mha"), True)
    fewer = (tmp_path / "a.mha").read_bytes().replace(b"DimSize = 2 3 4", b"DimSize = 2 3 3")
    (tmp_path / "a.mha").write_bytes(fewer)
    refused(tmp_path / "a.mha", 3, "unpacks to 48 bytes of voxels, the header claims 36")


def test_claims_beyond_the_file_are_refused_before_memory_is_taken(tmp_path):
    for packed in (False, True):
        for suffix, key in ((".mha", "DimSize = "), (".nrrd", "sizes: ")):
            file = tmp_path / f"{packed}{suffix}"
            sitk.WriteImage(itk_image(), str(file), packed)
            claim = file.read_bytes().replace(f"{key}2 3 4".encode(), f"{key}30000 30000 30000".encode())
            file.write_bytes(claim)
            refused(file, 3, "is truncated: the header claims 54000000000000 bytes")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (b"CompressedDataSize", b"CompressedDatASize", "the header does not say how many bytes are compressed"),
        (b"CompressedData = True", b"CompressedData = Trae", "the header's CompressedData is neither true nor false"),
        (b"ByteOrderMSB = False", b"ByteOrderMSB = Fllse", "is neither true nor false: Fllse"),
        (
            b"ElementSpacing",
            b"ElementSpacong",
            "the header's ElementSpacong is unknown. Remedy: spell it ElementSpacing",
        ),
        (b"TransformMatrix", b"transformmatrix", "the header's transformmatrix is unknown"),
        (b"Offset", b"Offsat", "the header's Offsat is unknown"),
    ],
)
def test_a_letter_that_changes_what_itk_reads_is_found(tmp_path, before, after, reason):
    file = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(), str(file), True)
    content = file.read_bytes()
    assert before in content
    file.write_bytes(content.replace(before, after, 1))
    refused(file, 3, reason)


def test_a_wrong_count_of_compressed_bytes_is_found(tmp_path):
    file = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(), str(file), True)
    content = file.read_bytes()
    (size,) = re.findall(rb"CompressedDataSize = (\d+)", content)
    file.write_bytes(content.replace(b"Size = " + size, b"Size = %d" % (int(size) - 1), 1))
    refused(file, 3, f"holds {int(size)} compressed bytes, the header claims {int(size) - 1}")


NRRD = "NRRD0004\ntype: short\nendian: little\nencoding: {encoding}\n{lines}\n\n"
PLACE = "space: left-posterior-superior\nspace directions: (-1.5,0,0) (0,2,0) (0,0,3)\n"
ONE_MORE = PLACE.replace("(-1.5", "{} (-1.5")  # whose first axis is of channels


def nrrd(file, lines, encoding="raw", body=None):
    body = VOXELS.tobytes(order="F") if body is None else body
    file.write_bytes(NRRD.format(encoding=encoding, lines=lines.strip()).encode() + body)
    return file


@pytest.mark.parametrize("kinds", ["vector domain domain domain", "list space space space"])
@pytest.mark.parametrize(
    "lines", ["spacings: nan 1.5 2 3", *map(ONE_MORE.format, ("none", "(nan,nan,nan)", "(NaN, nan, nan)"))]
)
def test_an_axis_of_channels_has_no_spacing(tmp_path, kinds, lines):
    file = nrrd(tmp_path / "a.nrrd", f"dimension: 4\nsizes: 1 2 3 4\nkinds: {kinds}\n{lines}")
    volume = read_volume(file, 3)
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    assert volume.spacing == (1.5, 2, 3)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("spacings: 1.5 nan 3", "spacings are not finite for an axis"),
        ("kinds: domain domain domain\nspacings: 1.5 nan 3", "spacings are not finite for an axis"),
        ("kinds: domain ??? domain\nspacings: 1.5 nan 3", "spacings are not finite for an axis"),
        ("kinds: domain vector\nspacings: 1.5 nan 3", "spacings are not finite for an axis"),
        ("spacings: 1.5 inf 3", "spacings is not finite"),
        ("spacings: 1.5 two 3", "spacings is no list of numbers"),
        (PLACE.replace("(0,2,0)", "(0,nan,0)"), "space directions is not finite"),
        (PLACE.replace("(0,2,0)", "(nan,nan,nan)"), "space directions are not finite for an axis"),
        (PLACE.replace("(0,2,0)", "none"), "space directions are not finite for an axis"),
        (PLACE.replace("(0,2,0)", "(0,2)"), "space directions are not those of all axes"),
    ],
)
def test_an_axis_of_space_has_one(tmp_path, lines, reason):
    refused(nrrd(tmp_path / "a.nrrd", f"dimension: 3\nsizes: 2 3 4\n{lines}"), 3, reason)


def test_a_nrrd_of_several_members(tmp_path):
    body, lines = VOXELS.tobytes(order="F"), f"dimension: 3\nsizes: 2 3 4\n{PLACE}"
    first, second, third = (gzip.compress(part) for part in (body[:10], body[10:30], body[30:]))
    for packed in (first + second + third, first + second + third + b"\n"):
        file = nrrd(tmp_path / "a.nrrd", lines, "gzip", packed)
        np.testing.assert_array_equal(read_volume(file, 3).array[0], VOXELS)
    refused(nrrd(tmp_path / "b.nrrd", lines, "gzip", first + second), 3, "unpacks to 30 bytes of voxels")
    refused(nrrd(tmp_path / "c.nrrd", lines, "gzip", first + third[:-9]), 3, "is truncated")
    refused(nrrd(tmp_path / "d.nrrd", lines, "gzip", first + b"x" + third), 3, "unpacks to 10 bytes of voxels")
    voxels = np.random.default_rng(0).integers(99, size=(40, 40, 40)).astype(np.int16)
    whole = voxels.tobytes(order="F")
    split = 65536 - len(gzip.compress(whole[:65000], 0)) + 65000  # so that the first piece ends with the first member
    first, second = gzip.compress(whole[:split], 0), gzip.compress(whole[split:])
    assert len(first) == 65536
    file = nrrd(tmp_path / "e.nrrd", lines.replace("2 3 4", "40 40 40"), "gzip", first + second)
    np.testing.assert_array_equal(read_volume(file, 3).array[0], voxels)


def test_keys_that_resemble_one_that_is_there_are_others(tmp_path):
    file = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(), str(file))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"NDims", b"ImageOrientation = 0 1 0\nOffsetX = 7\noffset = 9\nNDims", 1))
    volume = read_volume(file, 3)
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    np.testing.assert_allclose(volume.affine, LAS)
    file.write_bytes(whole.replace(b"Offset =", b"OffsetX =", 1))
    refused(file, 3, "OffsetX is unknown. Remedy: spell it Offset")
