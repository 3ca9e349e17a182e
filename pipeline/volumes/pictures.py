"""PNG, JPEG and BMP pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

from pipeline.errors import InputError
from pipeline.volumes.header import (
    DEFLATE_RATIO,
    RESTORE,
    Kind,
    Opened,
    VolumeHeader,
    check_claim,
    check_upright,
    split_axes,
)
from pipeline.volumes.voxels import without_alpha

PICTURES = {
    ".png": ("PNG", PngImagePlugin.PngImageFile),
    ".jpg": ("JPEG", JpegImagePlugin.JpegImageFile),
    ".jpeg": ("JPEG", JpegImagePlugin.JpegImageFile),
    ".bmp": ("BMP", BmpImagePlugin.BmpImageFile),
}
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, steps
PIECE = 1 << 20  # bytes that are unpacked at once to be counted
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by PNG's colour type
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # samples per pixel, alpha included


def open_picture(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the header of a picture, and return it with the function that loads the pixels."""
    name, plugin = PICTURES[path.suffix.lower()]
    with path.open("rb") as stream:
        image = plugin(stream)
        mode, (width, height), info = image.mode, image.size, image.info
        stream.seek(24)
        depth, colour_type = stream.read(2) if name == "PNG" else (8, 0)
    _check_pixels(name, mode, kind, deep_colour=depth == 16 and colour_type != 0, transparent="transparency" in info)
    shape, _ = split_axes((height, width), (1,), spatial_dims)
    plain = name == "BMP" and info.get("compression") == 0  # a byte holds 8 pixels at most
    check_claim(width * height * _MODES[mode] * depth // 8, path, ratio=8 if plain else DEFLATE_RATIO)
    alpha = mode in ("LA", "RGBA")

    def load() -> np.ndarray:
        with path.open("rb") as stream:
            plugin(stream).verify()  # the checksum of every PNG chunk, which loading skips
            stream.seek(0)
            if name == "PNG":
                _check_rows(stream.read())
                stream.seek(0)
            image = plugin(stream)
            image.load()
            check_upright(image.getexif().get(274, 1))
            if getattr(image, "n_frames", 1) > 1:
                raise InputError("holds several frames", remedy="save one frame per file")
            array = np.asarray(image)
        if mode in ("1", "L") and name == "PNG" and depth < 8:  # Pillow spreads 2 bits over 0, 85, 170, 255
            array = array.astype(np.uint8) // (255 // (2**depth - 1) if mode == "L" else 1)
        array = np.atleast_3d(array.astype(np.uint8) if mode == "1" else array).transpose(2, 0, 1)
        return without_alpha(array) if alpha else array

    dtype = np.dtype(np.uint16 if mode == "I;16" else np.uint8)
    return VolumeHeader(path, name, shape, _MODES[mode] - alpha, dtype, np.eye(4), 2), load


def _check_rows(png: bytes) -> None:
    """Raise unless a PNG holds the rows that its one header claims: Pillow leaves black what is missing."""
    chunks, place = [(b"", 0, 0)], 8
    while chunks[-1][0] != b"IEND" and place < len(png):  # some programs leave a line break behind the end
        (length,) = struct.unpack_from(">I", png, place)
        chunks.append((png[place + 4 : place + 8], place + 8, length))
        place += length + 12
    names = [kind for kind, _, _ in chunks[1:]]
    if names[0] != b"IHDR" or names.count(b"IHDR") > 1 or b"IDAT" not in names:
        raise InputError("has no pixels, or not one header at its start", remedy=RESTORE)
    width, height, depth, colours, *ways, interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    passes = ADAM7 if interlaced == 1 else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    bits = depth * _SAMPLES[colours]
    claimed = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 < rows)
    inflater, held = zlib.decompressobj(), 0
    for _, start, length in (chunk for chunk in chunks if chunk[0] == b"IDAT"):
        packed = png[start : start + length]
        while packed and held <= claimed:
            held += len(inflater.decompress(packed, PIECE))
            packed = inflater.unconsumed_tail
    if any(ways) or interlaced > 1:
        raise InputError("has a way of packing that PNG does not know", remedy=RESTORE)
    if held != claimed or not inflater.eof:
        raise InputError(f"holds {held} bytes of rows, the header claims {claimed}", remedy=RESTORE)


def _check_pixels(name: str, mode: str, kind: Kind, deep_colour: bool, transparent: bool) -> None:
    if name == "JPEG" and kind == "label":
        raise InputError("JPEG changes label values at every border", remedy="export the labels again as PNG or TIFF")
    if mode not in _MODES:
        raise InputError(f"has pixels of mode {mode}", remedy="save it as greyscale or RGB")
    if deep_colour:
        raise InputError("has 16 bits per colour, of which 8 would be lost", remedy="save it as 16-bit TIFF")
    if mode == "P" and kind == "image":
        raise InputError("has a palette, so its values are no grey values", remedy="convert it to greyscale or RGB")
    if transparent and mode != "P":
        raise InputError("marks one colour as transparent", remedy="save it without transparency")
