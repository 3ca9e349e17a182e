import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_files import PIXELS, refused, tiff

from pipeline.volumes.reading import read_header, read_volume
from pipeline.volumes.tiff import RATIOS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_images_and_stacks(tmp_path, options, dtype):
    pages = np.arange(4 * 3 * 5, dtype=dtype).reshape(4, 3, 5)
    tiff(tmp_path / "a.tif", pages[0], **options)
    tiff(tmp_path / "b.tiff", pages, **options)
    one, many = read_volume(tmp_path / "a.tif", 2), read_volume(tmp_path / "b.tiff", 3)
    np.testing.assert_array_equal(one.array, pages[:1])
    np.testing.assert_array_equal(many.array, pages[None])
    assert one.array.dtype == many.array.dtype == dtype
    assert read_header(tmp_path / "b.tiff", 3).shape == (4, 3, 5)


@pytest.mark.parametrize(
    "array", [PIXELS, PIXELS.astype(np.uint16) * 4000, np.stack([PIXELS, PIXELS + 1, PIXELS + 2], -1)]
)
def test_lzw_as_another_program_writes_it(tmp_path, array):
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff_file:
        assert tiff_file.pages[0].compression == tifffile.COMPRESSION.LZW
    volume = read_volume(tmp_path / "a.tif", 2)
    np.testing.assert_array_equal(volume.array, array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))
    assert volume.array.dtype == array.dtype


@pytest.mark.parametrize("metadata", [{"axes": "CYX"}, {"axes": "ZYX"}, {"axes": "TYX"}, None])
def test_a_stack_of_pages_is_a_volume_however_its_axis_is_called(tmp_path, metadata):
    pages = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)
    tiff(tmp_path / "a.tif", pages, metadata=metadata)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", 3).array, pages[None])


def test_colours_and_channels_come_first(tmp_path):
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


def test_two_values_are_0_and_1(tmp_path):
    file = tiff(tmp_path / "a.tif", PIXELS % 2 == 1)
    np.testing.assert_array_equal(read_volume(file, 2, kind="label").array, PIXELS[None] % 2)


def test_tiffs_of_other_axes(tmp_path):
    refused(tiff(tmp_path / "pages.tif", np.zeros((30, 8, 8), np.uint8)), 2, "holds 30 pages; this bundle takes 2D")
    refused(tiff(tmp_path / "page.tif", np.zeros((8, 8), np.uint8)), 3, "holds one page; this bundle takes 3D volumes")
    film = tiff(tmp_path / "film.tif", np.zeros((2, 3, 8, 8), np.uint8), metadata={"axes": "TZYX"})
    refused(film, 3, "has the axes TZYX")
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(np.zeros((8, 8), np.uint8))
        writer.write(np.zeros((4, 4), np.uint8))
    refused(tmp_path / "two.tif", 2, "holds 2 images of different size")


def test_tiffs_that_would_be_misread(tmp_path):
    refused(tiff(tmp_path / "white.tif", PIXELS, photometric="miniswhite"), 2, "MINISWHITE colours")
    turned = tiff(tmp_path / "turned.tif", PIXELS, extratags=[(274, "H", 1, 3, True)])
    refused(turned, 2, r"stored turned \(orientation tag 3\)")
    grey = tiff(tmp_path / "grey.tif", np.full((16, 16), 77, np.uint8), compression="jpeg")
    np.testing.assert_allclose(read_volume(grey, 2).array, 77, atol=1)
    refused(grey, 2, "JPEG changes label values", kind="label")


def test_a_compression_that_nothing_unpacks(tmp_path):
    file = tiff(tmp_path / "a.tif", PIXELS)
    with tifffile.TiffFile(file, mode="r+b") as tiff_file:
        tiff_file.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION.THUNDERSCAN)
    refused(file, 2, "compressed by THUNDERSCAN, which is not supported")


def test_a_packed_strip_of_too_few_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    file = tiff(tmp_path / "a.tif", noise, compression="lzw", rowsperstrip=64)
    with tifffile.TiffFile(file, mode="r+b") as tiff_file:
        counts = tiff_file.pages[0].tags["StripByteCounts"]
        counts.overwrite(counts.value[0] // 2)
    refused(file, 2, "corrupted strip")


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
    tiff(tmp_path / "a.tif", PIXELS, metadata=None)
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    for entry in range(10, len(whole) - 12, 12):  # the first page's tags stand from byte 10 on, 12 bytes each
        if struct.unpack("<H", whole[entry : entry + 2])[0] in (256, 257):  # width and length
            whole[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 10**6)
    (tmp_path / "a.tif").write_bytes(whole)
    refused(tmp_path / "a.tif", 2, "the header claims 1000000000000 bytes")


@pytest.mark.parametrize("codec", ["zlib", "lzw", "packbits", "lzma", "zstd", "jpeg"])
def test_black_pictures_unpack_to_no_more_than_their_codec_can(tmp_path, codec):
    black = np.zeros((4096, 4096), np.uint8)
    file = tiff(tmp_path / "a.tif", black, compression=codec, rowsperstrip=4096, metadata=None)
    assert not read_volume(file, 2).array.any()
    with tifffile.TiffFile(file) as tiff_file:
        page = tiff_file.pages[0]
        assert page.compression in RATIOS
        entries = [page.tags[name].offset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    raw = bytearray(file.read_bytes())
    side = int((len(raw) * RATIOS[page.compression]) ** 0.5) + 1
    for entry in entries:
        struct.pack_into("<HII", raw, entry + 2, 4, 1, side)
    file.write_bytes(raw)
    refused(file, 2, f"the header claims {side**2} bytes")


def test_lzw_that_claims_what_no_lzw_holds(tmp_path):
    file = tiff(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="lzw", metadata=None)
    raw = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff_file:
        for name in ("ImageWidth", "ImageLength"):
            struct.pack_into("<HII", raw, tiff_file.pages[0].tags[name].offset + 2, 4, 1, 60_000)
    file.write_bytes(raw + bytes(60_000))
    refused(file, 2, "the header claims 3600000000 bytes")


@pytest.mark.parametrize(("tag", "value"), [("PhotometricInterpretation", 0), ("Orientation", 3), ("BitsPerSample", 7)])
@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"bigtiff": True}, {"byteorder": ">"}])
def test_a_page_that_is_shown_otherwise_than_the_first(tmp_path, tag, value, options):
    tags = [(274, "H", 1, 1, False)]
    file = tiff(tmp_path / "a.tif", np.stack([PIXELS] * 3), extratags=tags, compression="zlib", **options)
    assert read_volume(file, 3).shape == (3, 3, 5)
    with tifffile.TiffFile(file, mode="r+b") as tiff_file:
        tiff_file.pages.get(1, cache=False, aspage=True).tags[tag].overwrite(value)
    refused(file, 3, "its pages differ|holds 2 images of different size")


def test_a_page_that_has_a_tag_twice(tmp_path):
    file = tiff(tmp_path / "a.tif", PIXELS, extratags=[(33333, "H", 1, 1, False)])
    raw = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff_file:
        place = tiff_file.pages[0].tags[33333].offset
    struct.pack_into("<H", raw, place, 274)
    file.write_bytes(raw)
    assert read_volume(file, 2).shape == (3, 5)
    struct.pack_into("<H", raw, place, 262)
    file.write_bytes(raw)
    refused(file, 2, "a page has a tag twice")


def test_colours_of_one_number(tmp_path):
    file = tiff(tmp_path / "a.tif", PIXELS)
    with tifffile.TiffFile(file, mode="r+b") as tiff_file:
        tiff_file.pages[0].tags["PhotometricInterpretation"].overwrite(2)
    refused(file, 2, "has RGB colours of 1 numbers")
