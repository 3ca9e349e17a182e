import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume, suffix_of

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # (x, y, z)
LAS = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
PIXELS = np.arange(3 * 5, dtype=np.uint8).reshape(3, 5)  # (row, column)


def nifti(file, voxels=VOXELS, sform=LAS, qform=LAS, **fields):
    """Write a NIfTI file; `sform` or `qform` None leaves its code at 0, `fields` are set in the bytes of the header."""
    image = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    image.header.set_sform(sform, 0 if sform is None else 1)
    image.header.set_qform(qform, 0 if qform is None else 1)
    raw = bytearray(image.to_bytes())
    header = np.frombuffer(raw, image.header.structarr.dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    file.write_bytes(gzip.compress(raw) if file.suffix == ".gz" else raw)
    return file


def itk_image(voxels=VOXELS):
    """Return an image of (x, y, z) voxels that lies as `LAS` says; LPS is RAS with the first two signs turned."""
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing([1.5, 2, 3])
    image.SetDirection([1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin([-10, 20, 30])
    return image


def tiff(file, array, photometric="minisblack", **options):
    tifffile.imwrite(file, array, photometric=photometric, **options)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(file, width, height, depth, colour_type, rows, *more):
    """Write a PNG of given raw rows, for the kinds that Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b""))
    return file


def refused(file, spatial_dims, text, **options):
    """Assert an `InputError` that matches `text` and names case, file and remedy."""
    with pytest.raises(InputError, match=text) as caught:
        read_volume(file, spatial_dims, case="c7", **options)
    assert caught.value.case == "c7"
    assert caught.value.file == str(file)
    assert caught.value.remedy


# every format, whole


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".mha", ".mhd", ".nrrd", ".MHA", ".NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_volumes_agree_in_every_format(tmp_path, suffix, dtype):
    file = tmp_path / f"scan.1{suffix}"
    if "nii" in suffix.lower():
        nifti(tmp_path / f"scan.1{suffix.lower()}", VOXELS.astype(dtype)).rename(file)
    else:
        sitk.WriteImage(itk_image(VOXELS.astype(dtype)), str(tmp_path / f"scan.1{suffix.lower()}"))
        (tmp_path / f"scan.1{suffix.lower()}").rename(file)
    volume, header = read_volume(file, 3), read_header(file, 3)
    assert volume.array.dtype == header.dtype == dtype
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    assert volume.array.flags["C_CONTIGUOUS"]
    assert volume.array.flags["WRITEABLE"]
    for known in (volume, header):
        np.testing.assert_allclose(known.affine, LAS, atol=1e-6)
        assert known.affine.dtype == np.float64
        assert known.spacing == pytest.approx((1.5, 2, 3))
        assert (known.shape, known.channels, known.stored_dims, known.file) == ((2, 3, 4), 1, 3, file)
    assert volume.format == {".ni": "NIfTI", ".mh": "MetaImage", ".nr": "NRRD"}[suffix.lower()[:3]]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_itk_formats_packed_or_not(tmp_path, suffix, compressed):
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{suffix}"), compressed)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}", 3).array, VOXELS[None])


def test_nibabel_and_simpleitk_agree_on_an_oblique_volume(tmp_path):
    turn = np.deg2rad(25)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), 0, -np.sin(turn)], [0, -1, 0], [np.sin(turn), 0, np.cos(turn)]]
    affine[:3, :3] *= [0.7, 0.8, 2.5]
    affine[:3, 3] = -12.5, 40, 7
    sitk.WriteImage(sitk.ReadImage(str(nifti(tmp_path / "a.nii", sform=affine, qform=affine))), str(tmp_path / "a.mha"))
    first, second = read_volume(tmp_path / "a.nii", 3), read_volume(tmp_path / "a.mha", 3)
    np.testing.assert_allclose(first.affine, affine, atol=1e-6)
    np.testing.assert_allclose(second.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(first.array, second.array)


@pytest.mark.parametrize(
    ("name", "array", "channels"),
    [
        ("a.png", PIXELS, 1),
        ("a.png", PIXELS.astype(np.uint16) * 4000, 1),
        ("a.png", np.stack([PIXELS, PIXELS + 1, PIXELS + 2], -1), 3),
        ("a.bmp", PIXELS * 10, 1),
        ("a.BMP", np.stack([PIXELS, PIXELS + 1, PIXELS + 2], -1), 3),
    ],
)
def test_pictures_are_row_and_column(tmp_path, name, array, channels):
    Image.fromarray(array).save(tmp_path / name)
    volume, header = read_volume(tmp_path / name, 2), read_header(tmp_path / name, 2)
    expected = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype == header.dtype == array.dtype
    assert (header.shape, header.channels, header.spacing) == ((3, 5), channels, (1, 1))
    np.testing.assert_array_equal(volume.affine, np.eye(4))


def test_jpeg_is_an_image_but_no_label(tmp_path):
    Image.fromarray(np.full((8, 16), 77, np.uint8)).save(tmp_path / "a.jpg")
    volume = read_volume(tmp_path / "a.jpg", 2)
    assert (volume.format, volume.array.shape) == ("JPEG", (1, 8, 16))
    np.testing.assert_allclose(volume.array, 77, atol=1)
    refused(tmp_path / "a.jpg", 2, "JPEG changes label values", kind="label")


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_tiff(tmp_path, options, dtype):
    pages = np.arange(4 * 3 * 5, dtype=dtype).reshape(4, 3, 5)
    tiff(tmp_path / "a.tif", pages[0], **options)
    tiff(tmp_path / "b.tiff", pages, **options)
    one, many = read_volume(tmp_path / "a.tif", 2), read_volume(tmp_path / "b.tiff", 3)
    np.testing.assert_array_equal(one.array, pages[:1])
    np.testing.assert_array_equal(many.array, pages[None])
    assert one.array.dtype == many.array.dtype == dtype
    assert read_header(tmp_path / "b.tiff", 3).shape == (4, 3, 5)


@pytest.mark.parametrize("metadata", [{"axes": "CYX"}, {"axes": "ZYX"}, {"axes": "TYX"}, None])
def test_a_stack_of_pages_is_a_volume_however_its_axis_is_called(tmp_path, metadata):
    pages = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)
    tiff(tmp_path / "a.tif", pages, metadata=metadata)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", 3).array, pages[None])


def test_tiff_colours_and_channels_come_first(tmp_path):
    colours = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])  # (3, row, column)
    tiff(tmp_path / "mixed.tif", np.moveaxis(colours, 0, -1), photometric="rgb")
    tiff(tmp_path / "planar.tif", colours, photometric="rgb", planarconfig="separate")
    tiff(tmp_path / "channels.tif", colours, metadata={"axes": "CYX"})
    for name in ("mixed.tif", "planar.tif", "channels.tif"):
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2).array, colours, err_msg=name)
        assert read_header(tmp_path / name, 2).channels == 3
    hyperstack = np.arange(4 * 2 * 3 * 5, dtype=np.uint8).reshape(4, 2, 3, 5)  # ImageJ's (z, channel, row, column)
    tiff(tmp_path / "hyper.tif", hyperstack, imagej=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "hyper.tif", 3).array, hyperstack.transpose(1, 0, 2, 3))


def test_4d_nifti_and_vector_images_become_channels(tmp_path):
    voxels = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    vector = sitk.Compose([itk_image(voxels[..., 0]), itk_image(voxels[..., 1])])
    nifti(tmp_path / "a.nii.gz", voxels)
    for name in ("a.nrrd", "a.mha", "vector.nii"):  # in NIfTI stored as (2, 3, 4, 1, 2)
        sitk.WriteImage(vector, str(tmp_path / name))
    for file in tmp_path.iterdir():
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


def test_scaling_of_an_image_is_applied(tmp_path):
    volume = read_volume(nifti(tmp_path / "ct.nii", scl_slope=0.5, scl_inter=-10), 3)
    np.testing.assert_array_equal(volume.array, VOXELS[None] * 0.5 - 10)
    unset = read_volume(nifti(tmp_path / "raw.nii", scl_slope=np.nan, scl_inter=np.nan), 3)
    assert unset.array.dtype == np.int16


@pytest.mark.parametrize(("code", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_geometry_is_in_millimetres(tmp_path, code, scale):
    file = nifti(tmp_path / "a.nii", xyzt_units=code)  # unknown, metre, millimetre, micron
    assert read_header(file, 3).spacing == pytest.approx((1.5 * scale, 2 * scale, 3 * scale))
    assert sitk.ReadImage(str(file)).GetSpacing() == pytest.approx(read_header(file, 3).spacing)


def test_header_of_a_large_file_is_cheap(tmp_path):
    file = tmp_path / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((4000, 4000, 3000))
    header.set_sform(LAS, 1)
    with file.open("wb") as stream:
        stream.write(header.binaryblock)
        stream.truncate(352 + 4000 * 4000 * 3000 * 2)  # 96 GB of nothing
    assert read_header(file, 3).shape == (4000, 4000, 3000)


# labels


@pytest.mark.parametrize(
    ("dtype", "number"), [(np.uint16, 65535), (np.int32, 2**24 + 1), (np.uint32, 2**32 - 1), (np.int64, 2**53 + 1)]
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".tif"])
def test_instance_numbers_are_exact(tmp_path, suffix, dtype, number):
    labels = np.zeros((2, 3, 4), dtype)
    labels[0, 1, 2], labels[1, 1, 2] = number, number - 1
    file = tmp_path / f"a{suffix}"
    if suffix == ".nii.gz":
        nifti(file, labels)
    elif suffix == ".tif":
        tiff(file, labels)
    else:
        sitk.WriteImage(itk_image(labels), str(file))
    volume = read_volume(file, 3, kind="label")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], labels)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii", VOXELS.astype(np.float32)), 3, kind="label")
    assert volume.array.dtype == np.int64
    np.testing.assert_array_equal(volume.array[0], VOXELS)


def test_a_palette_is_a_label_map_of_indices(tmp_path):
    picture = Image.fromarray(PIXELS % 3)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])  # 0 black, 1 red, 2 green
    for name in ("a.png", "a.bmp", "a.tif"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2, kind="label").array, PIXELS[None] % 3)
        assert read_header(tmp_path / name, 2, kind="label").channels == 1
        refused(tmp_path / name, 2, "palette|PALETTE")


def test_pngs_of_few_bits_hold_the_numbers_that_were_stored(tmp_path):
    one = png(tmp_path / "1.png", 8, 1, 1, 0, [b"\xa5"])  # 1010 0101
    two = png(tmp_path / "2.png", 4, 1, 2, 0, [b"\x1b"])  # 00 01 10 11
    four = png(tmp_path / "4.png", 2, 2, 4, 0, [b"\x0f", b"\x5a"])
    for kind in ("image", "label"):
        assert read_volume(one, 2, kind=kind).array.tolist() == [[[1, 0, 1, 0, 0, 1, 0, 1]]]
        assert read_volume(two, 2, kind=kind).array.tolist() == [[[0, 1, 2, 3]]]
        assert read_volume(four, 2, kind=kind).array.tolist() == [[[0, 15], [5, 10]]]
    tiff(tmp_path / "1.tif", PIXELS % 2 == 1)
    np.testing.assert_array_equal(read_volume(tmp_path / "1.tif", 2, kind="label").array, PIXELS[None] % 2)


def test_labels_that_are_no_labels(tmp_path):
    halves = nifti(tmp_path / "halves.nii", VOXELS / np.float32(2))
    refused(halves, 3, "12 label values are not whole numbers, such as 0.5", kind="label")
    refused(nifti(tmp_path / "s.nii", scl_slope=2, scl_inter=0), 3, "scales its labels by 2.0", kind="label")
    merged = nifti(tmp_path / "merged.nii", np.full((2, 3, 4), 2**24, np.float32))
    refused(merged, 3, "float32 labels from 16777216 on are not exact", kind="label")
    refused(nifti(tmp_path / "4d.nii", np.zeros((2, 3, 4, 3), np.uint8)), 3, "this file has 3", kind="label")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    refused(tmp_path / "rgb.png", 2, "a label map has one channel, this file has 3", kind="label")
    colours = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(nifti(tmp_path / "rgb.nii", colours), 3, "whole or real numbers are expected", kind="label")


# of the other number of dimensions


def test_files_of_the_other_kind(tmp_path):
    tiff(tmp_path / "pages.tif", np.zeros((30, 8, 8), np.uint8))
    refused(tmp_path / "pages.tif", 2, "holds 30 pages; this bundle takes 2D images")
    tiff(tmp_path / "page.tif", np.zeros((8, 8), np.uint8))
    refused(tmp_path / "page.tif", 3, "holds one page; this bundle takes 3D volumes")
    tiff(tmp_path / "film.tif", np.zeros((2, 3, 8, 8), np.uint8), metadata={"axes": "TZYX"})
    refused(tmp_path / "film.tif", 3, "has the axes TZYX")
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(np.zeros((8, 8), np.uint8))
        writer.write(np.zeros((4, 4), np.uint8))
    refused(tmp_path / "two.tif", 2, "holds 2 images of different size")
    refused(nifti(tmp_path / "a.nii"), 2, "holds 4 slices; this bundle takes 2D images")
    refused(nifti(tmp_path / "b.nii", np.zeros((4, 4), np.uint8)), 3, "holds one 2D image")
    refused(nifti(tmp_path / "c.nii", np.zeros((2, 2, 2, 2, 2), np.uint8)), 3, "several axes beyond space")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", 3, "holds one 2D image")
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS + 1)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "film.png", 2, "holds several frames")
    refused(tmp_path / "a.png", 4, "4 spatial axes")


# pictures that would be misread


def test_pictures_that_would_be_misread(tmp_path):
    deep = png(tmp_path / "deep.png", 1, 1, 16, 2, [b"\1\2\3\4\5\6"])
    refused(deep, 2, "16 bits per colour, of which 8 would be lost")
    key = png(tmp_path / "key.png", 2, 1, 8, 0, [b"\1\2"], chunk(b"tRNS", b"\0\1"))
    refused(key, 2, "marks one colour as transparent")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8), "CMYK").save(tmp_path / "cmyk.jpg")
    refused(tmp_path / "cmyk.jpg", 2, "mode CMYK")
    turned = Image.Exif()
    turned[274] = 6  # turn by 90 degrees before showing
    for name in ("a.jpg", "a.png"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=turned)
        refused(tmp_path / name, 2, r"stored turned \(orientation tag 6\)")
    tiff(tmp_path / "white.tif", PIXELS, photometric="miniswhite")
    refused(tmp_path / "white.tif", 2, "MINISWHITE colours")
    tiff(tmp_path / "turned.tif", PIXELS, extratags=[(274, "H", 1, 3, True)])
    refused(tmp_path / "turned.tif", 2, r"stored turned \(orientation tag 3\)")


def test_a_compression_that_needs_another_package(tmp_path, monkeypatch):
    tiff(tmp_path / "a.tif", PIXELS, compression="zlib")
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {1: None})
    refused(tmp_path / "a.tif", 2, "compressed by ADOBE_DEFLATE, which needs the package imagecodecs")


@pytest.mark.parametrize("grey", [False, True])
def test_only_an_opaque_alpha_channel_is_dropped(tmp_path, grey):
    opaque = np.full((3, 5, 2 if grey else 4), 255, np.uint8)
    opaque[..., :-1] = PIXELS[..., None]
    clear = opaque.copy()
    clear[1, 1, -1] = 254
    for name, options in (("a.png", None), ("a.tif", {"photometric": "minisblack" if grey else "rgb"})):
        for array, file in ((opaque, tmp_path / name), (clear, tmp_path / f"clear-{name}")):
            if options is None:
                Image.fromarray(array).save(file)
            else:
                tiff(file, array, planarconfig="contig", extrasamples=["unassalpha"], **options)
        expected = np.moveaxis(opaque[..., :-1], -1, 0)
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2).array, expected)
        assert read_header(tmp_path / name, 2).channels == len(expected)
        refused(tmp_path / f"clear-{name}", 2, "has transparent pixels")


# geometry


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


@pytest.mark.parametrize(
    ("line", "damaged", "text"),
    [
        ("Offset = -10 20 30", "Offset = inf 20 30", "offset is not finite"),
        ("Offset = -10 20 30", "Offset = ten 20 30", "could not convert string to float"),
        ("ElementSpacing = 1.5 2 3", "ElementSpacing = nan 2 3", "elementspacing is not finite"),
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


# damage


def damaged_files(folder):
    """Yield a whole file of each format with its number of dimensions."""
    yield nifti(folder / "a.nii"), 3
    yield nifti(folder / "a.nii.gz"), 3
    for packed in (False, True):
        for suffix in (".mha", ".nrrd"):
            sitk.WriteImage(itk_image(), str(folder / f"{packed}{suffix}"), packed)
            yield folder / f"{packed}{suffix}", 3
    pages = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    for name, options in {"plain": {}, "zlib": {"compression": "zlib"}, "bare": {"metadata": None}}.items():
        tiff(folder / f"{name}.tif", pages, **options)
        yield folder / f"{name}.tif", 3
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(pages[0]).save(folder / name)
        yield folder / name, 2


def test_truncated_files(tmp_path):
    for file, dims in list(damaged_files(tmp_path)):
        whole = file.read_bytes()
        for end in {0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 20}:
            file.write_bytes(whole[:end])
            refused(file, dims, "truncated|cannot be read|header")


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


@pytest.mark.parametrize("name", ["a.nii.gz", "True.mha", "True.nrrd", "zlib.tif", "a.png"])
def test_a_flipped_bit_in_packed_voxels_is_found(tmp_path, name):
    file, dims = next((file, dims) for file, dims in damaged_files(tmp_path) if file.name == name)
    whole, right = file.read_bytes(), read_volume(file, dims).array
    starts = {"a.nii.gz": 10, "a.png": 0, "zlib.tif": whole.rfind(b"\x78\x9c")}
    start = starts.get(name, len(whole) - 60)
    end = len(whole) if name != "zlib.tif" else start + 20
    found = 0
    for position in range(start, end):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            np.testing.assert_array_equal(read_volume(file, dims).array, right, err_msg=f"byte {position}")
        except InputError:
            found += 1
    assert found > 0.85 * (end - start)  # the rest is time stamps and the like


def test_packed_voxels_of_another_number_than_the_header_claims(tmp_path):
    raw = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(raw[:-6]))
    refused(tmp_path / "short.nii.gz", 3, "is truncated: 42 of 48 bytes of voxels")
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(raw + bytes(100)))
    np.testing.assert_array_equal(read_volume(tmp_path / "long.nii.gz", 3).array[0], VOXELS)
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mha"), True)
    fewer = (tmp_path / "a.mha").read_bytes().replace(b"DimSize = 2 3 4", b"DimSize = 2 3 3")
    (tmp_path / "a.mha").write_bytes(fewer)
    refused(tmp_path / "a.mha", 3, "unpacks to 48 bytes of voxels, the header claims 36")


def test_too_little_memory(tmp_path, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(np, "require", no_memory)
    refused(nifti(tmp_path / "a.nii"), 3, "needs more memory than is free")


def test_a_tiff_that_lost_its_last_pages_is_no_smaller_image(tmp_path):
    tiff(tmp_path / "a.tif", np.zeros((2, 8, 8), np.uint8), metadata=None)
    whole = (tmp_path / "a.tif").read_bytes()
    (first,) = struct.unpack("<I", whole[4:8])
    (entries,) = struct.unpack("<H", whole[first : first + 2])
    pointer = first + 2 + 12 * entries
    (tmp_path / "a.tif").write_bytes(whole[:pointer] + struct.pack("<I", len(whole) + 100) + whole[pointer + 4 :])
    refused(tmp_path / "a.tif", 2, "cannot be read")
    (tmp_path / "a.tif").write_bytes(whole[:pointer] + struct.pack("<I", first) + whole[pointer + 4 :])  # a circle
    refused(tmp_path / "a.tif", 2, "its pages form a circle")


def test_claims_beyond_the_file_are_refused_before_memory_is_taken(tmp_path):
    huge = [3, 30000, 30000, 30000, 1, 1, 1, 1]  # 54 TB of int16
    refused(nifti(tmp_path / "a.nii", dim=huge), 3, "is truncated: the header claims 54000000000352 bytes")
    refused(nifti(tmp_path / "a.nii.gz", dim=huge), 3, "that unpack to at most")
    for packed in (False, True):
        for suffix, key in ((".mha", "DimSize = "), (".nrrd", "sizes: ")):
            file = tmp_path / f"{packed}{suffix}"
            sitk.WriteImage(itk_image(), str(file), packed)
            claim = file.read_bytes().replace(f"{key}2 3 4".encode(), f"{key}30000 30000 30000".encode())
            file.write_bytes(claim)
            refused(file, 3, "is truncated: the header claims 54000000000000 bytes")
    refused(png(tmp_path / "a.png", 10**6, 10**6, 8, 0, [b"\0"]), 2, "the header claims 1000000000000 bytes")
    tiff(tmp_path / "a.tif", PIXELS, metadata=None)
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    for entry in range(10, len(whole) - 12, 12):  # the first page's tags stand from byte 10 on, 12 bytes each
        if struct.unpack("<H", whole[entry : entry + 2])[0] in (256, 257):  # width and length
            whole[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 10**6)
    (tmp_path / "a.tif").write_bytes(whole)
    refused(tmp_path / "a.tif", 2, "the header claims 1000000000000 bytes")


def test_axes_of_size_0_and_voxels_that_are_no_numbers(tmp_path, monkeypatch):
    refused(nifti(tmp_path / "0.nii", dim=[3, 2, 0, 4, 1, 1, 1, 1]), 3, "axis of size 0")
    for value in (np.nan, np.inf):
        voxels = VOXELS.astype(np.float32)
        voxels[1, 2, 3] = value
        bad = nifti(tmp_path / f"{value}.nii.gz", voxels)
        refused(bad, 3, r"1 of 24 voxels are NaN or infinite, the first at \(1, 2, 3\)")
        refused(bad, 3, "NaN or infinite", kind="label")
    refused(nifti(tmp_path / "c.nii", VOXELS.astype(np.complex64)), 3, "holds complex64 voxels")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 2, 2, 2)), isVector=False), str(tmp_path / "4d.mha"))
    refused(tmp_path / "4d.mha", 3, "has 4 axes")
    monkeypatch.setattr(sitk, "GetPixelIDValueAsString", lambda number: "complex of 32-bit float")
    sitk.WriteImage(itk_image(), str(tmp_path / "complex.mha"))
    refused(tmp_path / "complex.mha", 3, "holds voxels of type 'complex of 32-bit float'")


def test_files_that_are_not_what_their_suffix_says(tmp_path):
    refused(tmp_path / "missing.nii.gz", 3, "does not exist")
    for name, dims in {"a.nii": 3, "b.nii.gz": 3, "a.mha": 3, "a.nrrd": 3, "a.tif": 2, "a.png": 2, "a.bmp": 2}.items():
        (tmp_path / name).write_bytes(b"something else altogether" * 40)
        refused(tmp_path / name, dims, "cannot be read|is not a|has no complete")
        (tmp_path / f"dir-{name}").mkdir()
        refused(tmp_path / f"dir-{name}", dims, r"cannot be opened \(Is a directory\)")
    Image.fromarray(PIXELS).save(tmp_path / "really.jpg")
    (tmp_path / "really.jpg").rename(tmp_path / "jpeg.png")
    refused(tmp_path / "jpeg.png", 2, "not a PNG")
    nifti(tmp_path / "pair.nii", magic=b"ni1")
    refused(tmp_path / "pair.nii", 3, "no NIfTI magic")
    sitk.WriteImage(itk_image(), str(tmp_path / "text.nrrd"))
    text = (tmp_path / "text.nrrd").read_bytes().replace(b"encoding: raw", b"encoding: text")
    (tmp_path / "text.nrrd").write_bytes(text)
    refused(tmp_path / "text.nrrd", 3, "of text or of several files")


def test_suffixes():
    assert suffix_of("a/Scan.1.NII.GZ") == ".nii.gz"
    assert suffix_of("x.nii.TIF") == ".tif"
    with pytest.raises(InputError, match=r"unknown suffix '\.dcm'.*\.nii\.gz"):
        suffix_of("x.dcm")
