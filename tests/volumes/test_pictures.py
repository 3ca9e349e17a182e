import numpy as np
import pytest
from PIL import Image
from volume_files import PIXELS, chunk, png, refused

from pipeline.volumes.reading import read_header, read_volume


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


def test_pngs_of_few_bits_hold_the_numbers_that_were_stored(tmp_path):
    one = png(tmp_path / "1.png", 8, 1, 1, 0, [b"\xa5"])  # 1010 0101
    two = png(tmp_path / "2.png", 4, 1, 2, 0, [b"\x1b"])  # 00 01 10 11
    four = png(tmp_path / "4.png", 2, 2, 4, 0, [b"\x0f", b"\x5a"])
    for kind in ("image", "label"):
        assert read_volume(one, 2, kind=kind).array.tolist() == [[[1, 0, 1, 0, 0, 1, 0, 1]]]
        assert read_volume(two, 2, kind=kind).array.tolist() == [[[0, 1, 2, 3]]]
        assert read_volume(four, 2, kind=kind).array.tolist() == [[[0, 15], [5, 10]]]


def test_pictures_of_other_axes(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", 3, "holds one 2D image")
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS + 1)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "film.png", 2, "holds several frames")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    refused(tmp_path / "rgb.png", 2, "a label map has one channel, this file has 3", kind="label")


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


def test_the_suffix_decides_on_the_reader(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "really.jpg")
    (tmp_path / "really.jpg").rename(tmp_path / "jpeg.png")
    refused(tmp_path / "jpeg.png", 2, "not a PNG")


def test_claims_beyond_the_file_are_refused_before_memory_is_taken(tmp_path):
    refused(png(tmp_path / "a.png", 10**6, 10**6, 8, 0, [b"\0"]), 2, "the header claims 1000000000000 bytes")


def test_what_stands_behind_the_end_of_a_png_is_left_alone(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    whole = file.read_bytes()
    for tail in (b"\n", b"\r\n", b"abc", bytes(4), b"x" * 50):
        file.write_bytes(whole + tail)
        np.testing.assert_array_equal(read_volume(file, 2).array[0], PIXELS)
    file.write_bytes(whole[:33] + whole[-12:] + whole[33:])  # the end before the pixels
    refused(file, 2, "has no pixels|cannot be read")
    file.write_bytes(whole[:-12])
    refused(file, 2, "cannot be read")


@pytest.mark.parametrize("place", [26, 27])  # of IHDR: the ways to pack and to filter
def test_a_way_of_packing_that_png_does_not_know(tmp_path, place):
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    header = bytearray(file.read_bytes()[16:29])
    header[place - 16] = 1
    file.write_bytes(file.read_bytes()[:8] + chunk(b"IHDR", bytes(header)) + file.read_bytes()[33:])
    refused(file, 2, "a way of packing|cannot be read")
