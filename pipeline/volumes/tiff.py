"""TIFF images and stacks of pages."""

from __future__ import annotations

import math
import struct
from collections.abc import Container
from pathlib import Path

import numpy as np
import tifffile

from pipeline.errors import InputError
from pipeline.volumes.header import (
    BOUNDLESS_RATIO,
    DEFLATE_RATIO,
    JPEG_RATIO,
    RESTORE,
    Kind,
    Opened,
    VolumeHeader,
    check_claim,
    check_upright,
)
from pipeline.volumes.voxels import without_alpha

ONE = (256, 257, 259, 262, 274, 277, 278, 284, 317, 322, 323)  # tags of a single number
MOST_TAGS = 65535  # of a page, as TIFF can count them; BigTIFF could count more
WHOLE = (1, 3, 4, 16)  # types of tags: bytes and longer whole numbers
ALIKE = (256, 257, 258, 259, 262, 266, 274, 277, 284, 317, 339)  # tags that tell what the numbers of a page stand for
FAX = (2, 3, 4)  # which pack pixels of one bit
JPEG = (6, 7, 33007, 34892)  # old, new, alternative and lossy: the numbers of TIFF's compression tag
RATIOS = {
    1: 1,
    5: 2731,  # LZW: 4096 bytes by a code of 12 bits
    8: DEFLATE_RATIO,
    32773: 64,  # PackBits: 128 bytes by two
    32946: DEFLATE_RATIO,
    34925: 1 << 13,  # LZMA: 273 bytes by a third of a bit
    34926: 1 << 15,  # Zstandard: 128 KiB by four bytes
    34933: DEFLATE_RATIO,  # PNG
    50000: 1 << 15,
    **dict.fromkeys(JPEG, JPEG_RATIO),
}  # bytes of pixels by one of the file at most, by TIFF's compression tag; of others there is no such bound


def open_tiff(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check every page of a TIFF file, and return its header with the function that loads the voxels."""
    codes = _tags_of_pages(path)
    with _open(path) as tiff:
        if tiff.is_ome and tiff.series[0].kind != "ome" and "FileName" in str(tiff.ome_metadata):
            raise InputError("its OME metadata name other files for its pages", remedy="save all pages in one file")
        if len(tiff.series) != 1:
            raise InputError(f"holds {len(tiff.series)} images of different size", remedy="keep one of them per file")
        _check_segments(path, tiff, codes)
        page, axes, stored = tiff.pages.first, tiff.series[0].axes, tiff.series[0].shape
        dtype = np.dtype("u1") if tiff.series[0].dtype.kind == "b" else tiff.series[0].dtype
    _check_page(page, kind)
    colour, pages = _tiff_axes(axes, stored, spatial_dims)
    order = [*colour, *pages, axes.index("Y"), axes.index("X")]
    shape, channels = tuple(stored[i] for i in order[len(colour) :]), stored[colour[0]] if colour else 1
    alpha = "S" in axes and any(sample in (1, 2) for sample in page.extrasamples)

    def load() -> np.ndarray:
        with _open(path) as tiff:
            array = tiff.series[0].asarray().reshape(stored)
        array = array.transpose([i for i in range(len(stored)) if i not in order] + order).reshape(channels, *shape)
        return without_alpha(array) if alpha else array.astype(dtype, copy=False)

    return VolumeHeader(path, "TIFF", shape, channels - alpha, dtype, np.eye(4), spatial_dims), load


def _open(path: Path) -> tifffile.TiffFile:
    """Open a file by itself: its OME metadata may name any other one, and tifffile would put that one's pixels here."""
    return tifffile.TiffFile(path, _multifile=False)


def _tiff_axes(axes: str, stored: tuple[int, ...], spatial_dims: int) -> tuple[list[int], list[int]]:
    """Tell which axis holds the colours and which the pages, if any: ([3], [0]) for "ZYXS" in 3D."""
    colour = [i for i, letter in enumerate(axes) if letter in "SC" and stored[i] > 1]
    pages = [i for i, letter in enumerate(axes) if letter not in "SCYX"]
    if spatial_dims == 3 and not pages:  # a stack that was saved as channels
        pages, colour = [i for i in colour if axes[i] == "C"], [i for i in colour if axes[i] == "S"]
    if spatial_dims == 3 and not pages:
        raise InputError("holds one page; this bundle takes 3D volumes", remedy="stack the pages, or use a 2D bundle")
    several = [i for i in pages if stored[i] > 1]
    if spatial_dims == 2 and several:
        raise InputError(
            f"holds {math.prod(stored[i] for i in several)} pages; this bundle takes 2D images",
            remedy="split the pages into one file each, or use a 3D bundle, which takes them as its first axis",
        )
    if len(several) > 1 or len(colour) > 1:
        raise InputError(f"has the axes {axes} of {stored}", remedy="save one stack of pages per file")
    return colour, (several or pages[:1]) if spatial_dims == 3 else []


def _check_page(page: tifffile.TiffPage, kind: Kind) -> None:
    if page.photometric not in ((1, 2, 3) if kind == "label" else (1, 2)):  # black is zero, RGB, palette
        raise InputError(
            f"has {tifffile.PHOTOMETRIC(page.photometric).name} colours",
            remedy="save it as greyscale with black as 0, or as RGB; a label map may have a palette",
        )
    if page.photometric == 2 and page.samplesperpixel < 3:
        raise InputError(f"has RGB colours of {page.samplesperpixel} numbers", remedy=RESTORE)
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise InputError(
            f"is compressed by {tifffile.COMPRESSION(page.compression).name}, which is not supported",
            remedy="save the file without compression, or with LZW or deflate",
        )
    if page.compression in FAX and page.bitspersample != 1:
        raise InputError(f"has pixels of {page.bitspersample} bits in a compression of single ones", remedy=RESTORE)
    if kind == "label" and page.compression in JPEG:
        raise InputError("JPEG changes label values at every border", remedy="export the labels again with LZW")
    width, length = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.imagelength)
    samples = 1 if page.is_tiled and page.planarconfig == 2 else page.samplesperpixel
    taken = length * math.ceil(width * samples * page.bitspersample / 8)  # bytes
    taken *= math.prod(page.chunked) if page.is_tiled else 1
    held, odd = sum(page.databytecounts), page.bitspersample not in (8, 16, 32, 64)
    # Without its tag, a pixel has 1 bit.
    if page.compression == 1 and (held < taken or (odd and held != taken)):
        raise InputError(f"does not hold what {page.bitspersample} bits for each pixel take", remedy=RESTORE)
    turned = page.tags.get(274)
    check_upright(turned.value if turned else 1)


def _check_tags(page: tifffile.TiffPage, codes: Container[int]) -> None:
    """Raise for a tag of another type or number than the standard gives it: tifffile takes the first, or a guess."""
    tags = page.tags
    pieces, others = ((324, 325), (273, 279)) if page.is_tiled else ((273, 279), (324, 325))
    counts = dict.fromkeys(ONE, (1,)) | dict.fromkeys((258, 339), (1, page.samplesperpixel))
    counts |= dict.fromkeys(pieces, (math.prod(page.chunked),))
    wrong = [tag.name for code, allowed in counts.items() if (tag := tags.get(code)) and tag.count not in allowed]
    wrong += [tag.name for code in counts if (tag := tags.get(code)) and tag.dtype not in WHOLE]
    wrong += [str(code) for code in counts if code not in tags and (code in codes or code in pieces)]
    wrong += [str(code) for code in others if code in codes]
    formats = np.atleast_1d(tags.valueof(339, 1)).tolist()
    wrong += [
        f"{code}" for code, known in ((277, range(1, 65536)), (284, (1, 2))) if tags.valueof(code, 1) not in known
    ]
    if wrong or len(set(formats)) > 1 or formats[0] not in (1, 2, 3, 5, 6):
        raise InputError(f"has damaged tags: {', '.join(wrong) or f'SampleFormat {formats}'}", remedy=RESTORE)


def _check_segments(path: Path, tiff: tifffile.TiffFile, tags: list[dict[int, int]]) -> None:
    """Raise unless every page is there, and every strip or tile lies within the file: tifffile fills gaps with 0."""
    page, series, page_count = tiff.pages.first, tiff.series[0], len(tags)
    ratio = RATIOS.get(page.compression, BOUNDLESS_RATIO)
    check_claim(series.size * page.bitspersample // 8, path, ratio=ratio)
    segments = [pair for p in tiff.pages for pair in zip(p.dataoffsets, p.databytecounts, strict=True)]
    whole = all(0 < start < start + n <= tiff.filehandle.size for start, n in segments)
    whole &= all(len(p.dataoffsets) == math.prod(p.chunked) for p in tiff.pages)
    for each, codes in zip(tiff.pages, tags, strict=False):
        if isinstance(each, tifffile.TiffPage):  # others repeat the first
            _check_tags(each, codes)
    if page.compression == 1 and page.bitspersample % 8 == 0:
        whole &= all(sum(p.databytecounts) >= p.nbytes for p in tiff.pages)
    if len({(p.shape, p.dtype, p.compression) for p in tiff.pages}) > 1:
        raise InputError("its pages differ in shape, type or compression", remedy=RESTORE)
    # All are read as the first is. Without its tag a number is 1, but for the colours, which must be there.
    if len({tuple(codes.get(code, int(code != 262)) for code in ALIKE) for codes in tags}) > 1:
        raise InputError("its pages differ in colours, orientation or type", remedy="save all pages alike")
    if series.dataoffset is not None and page_count > 1:  # read as one block from there on, whatever a page says
        whole &= all(p.dataoffsets[0] == series.dataoffset + n * p.nbytes for n, p in enumerate(tiff.pages))
    one_block = page_count == 1 and series.size % page.size == 0  # ImageJ describes a large stack by its first page
    if not whole or page_count != len(tiff.pages) or not (one_block or series.size == page_count * page.size):
        raise InputError(f"is truncated or lacks pages: {page_count} pages for shape {series.shape}", remedy=RESTORE)


def _number(order: str, kind: int, count: int, value: bytes) -> int:
    """Return the number of a tag that has one, and how many there are below zero, for these stand elsewhere."""
    (number,) = struct.unpack_from(order + {1: "B", 4: "I"}.get(kind, "H"), value)
    return int(number) if count == 1 else -count


def _tags_of_pages(path: Path) -> list[dict[int, int]]:
    """Follow the chain of pages to its end: tifffile only logs it when the chain, or one of the tags, breaks."""
    with path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}[head[:2]]
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        count, entry, pointer = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
        (offset,) = struct.unpack(pointer, head[8:16] if big else head[4:8])
        seen: set[int] = set()
        found: list[dict[int, int]] = []
        while offset:
            if offset in seen:
                raise InputError("is damaged: its pages form a circle", remedy=RESTORE)
            seen.add(offset)
            stream.seek(offset)
            (entries,) = struct.unpack(count, stream.read(struct.calcsize(count)))
            if entries > MOST_TAGS:
                raise InputError(f"is damaged: a page claims {entries} tags", remedy=RESTORE)
            block = stream.read(entries * entry)
            tags = struct.iter_unpack(order + ("HHQ8s" if big else "HHI4s"), block)
            found.append({code: _number(order, *entry) for code, *entry in tags})
            if len(found[-1]) != entries:
                raise InputError("is damaged: a page has a tag twice", remedy=RESTORE)
            (offset,) = struct.unpack(pointer, stream.read(struct.calcsize(pointer)))
    return found
