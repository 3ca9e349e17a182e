"""Sound files whose parts are changed by one who knows the format: header fields, tags, chunks and lines, from a seed.

Each `fuzzed_...(chance)` returns a `Fuzzed`; `judge` tells whether what was read of it is right.
"""

import gzip
import io
import re
import struct
import tempfile
import zlib
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from bad_files import voxels
from PIL import Image, ImageSequence
from volume_files import LAS, chunk, itk_image

WIDE = (0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 255, 256, 2**16 - 1, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
REALS = (0.0, -0.0, 0.5, -1.0, 2.0, 1e-30, 1e30, 352.0, 353.0, -352.0, float("nan"), float("inf"), -float("inf"))


class Fuzzed(NamedTuple):
    """A file that was changed.

    Attributes:
        suffix: of its name.
        content: its bytes.
        array: the voxels before the change, as a reader gives them without the axis of channels.
        changes: what was done, for the message of a test.
        altered: whether the voxels mean something else than before, so that to be equal to them is not enough.
    """

    suffix: str
    content: bytes
    array: np.ndarray
    changes: list
    altered: bool = False


def array_of(chance):
    return (voxels(chance.randrange(3)) // 100).astype(chance.choice(["i2", "u1", "f4"]))


def odd_number(chance, now, dtype):
    """A number that the type holds and that readers stumble over, or one near to what stood there."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(chance.choice([*REALS, now * 1.001, now * 2, -now, now + 1, now / 1000]))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    now = int(now)
    swapped = int.from_bytes(now.to_bytes(dtype.itemsize, "little", signed=low < 0), "big", signed=low < 0)
    near = [*WIDE, -1, -2, low, high, now + 1, now - 1, 2 * now, -now, swapped, chance.randint(int(low), int(high))]
    return min(max(chance.choice(near), low), high)


# NIfTI


def fuzzed_nifti(chance):
    """Any fields of the header, of NIfTI-1 and -2, in both byte orders, with one form or two, packed or not."""
    array, kind = array_of(chance), chance.choice([nib.Nifti1Image, nib.Nifti1Image, nib.Nifti2Image])
    forms, packed = chance.choice(["both", "sform", "qform"]), chance.random() < 0.2
    image = kind(array, None, kind.header_class(endianness=chance.choice("<<>")), dtype=array.dtype)
    image.header.set_sform(None if forms == "qform" else LAS, int(forms != "qform"))
    image.header.set_qform(None if forms == "sform" else LAS, int(forms != "sform"))
    image.header.set_zooms((1.5, 2, 3))
    image.header.set_slope_inter(1, 0)
    raw = bytearray(image.to_bytes())
    fields = np.frombuffer(raw, image.header.structarr.dtype, count=1)
    changes = [kind.__name__, forms]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        name = chance.choice(fields.dtype.names)
        if fields[name].dtype.kind == "S":
            fields[name] = chance.choice([b"", b"n+1", b"ni1", b"n+2", b"n+3", b"n+2\0\r\n\x1a\n", chance.randbytes(4)])
            changes.append((name, fields[name][0]))
            continue
        numbers = fields[name].reshape(-1)
        place = chance.randrange(numbers.size)
        with np.errstate(over="ignore"):
            numbers[place] = odd_number(chance, numbers[place], numbers.dtype.newbyteorder("="))
        changes.append((f"{name}[{place}]", numbers[place]))
    content = gzip.compress(raw) if packed else bytes(raw)
    return Fuzzed(".nii.gz" if packed else ".nii", content, array, changes)


def judge_nifti(file, volume, fuzzed):
    """Right is what nibabel reads; and ITK too, where it knows the version and a qform holds the spacing."""
    image = nib.load(file)
    if image.header["sform_code"] == 0 == image.header["qform_code"]:
        return False
    units = {1: 1000.0, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = image.affine.copy()
    affine[:3] *= units
    array = np.moveaxis(volume.array, 0, -1).squeeze()
    right = np.array_equal(np.asarray(image.dataobj).squeeze(), array) and alike(affine, volume.affine)
    try:
        other = sitk.ReadImage(str(file), imageIO="NiftiImageIO")
    except RuntimeError:  # it knows no NIfTI-2, and no axes that are nearly at right angles
        return right
    right &= np.allclose(sitk.GetArrayFromImage(other).T.squeeze(), array, rtol=1e-5, atol=1e-5 * np.abs(array).max())
    return right and (image.header["qform_code"] == 0 or alike(affine_of(other), volume.affine))


def affine_of(image):
    dims = image.GetDimension()
    axes = np.reshape(image.GetDirection(), (dims, dims))[:3, :3] * image.GetSpacing()[:3]
    lps = np.eye(4)
    lps[: len(axes), : len(axes)], lps[: len(axes), 3] = axes, image.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def alike(affine, other):
    """Within what a quaternion of float32 rounds."""
    return np.allclose(affine, other, rtol=3e-3, atol=3e-3)


# MetaImage and NRRD: lines of text before the voxels

WORDS = "0 1 -1 2 nan inf 1e400 4294967297 2147483647 -2147483648 1000000000000 99999999999999999999 0x10 True False"
WORDS = f"{WORDS} x (1,0,0) none LOCAL LIST little big gzip raw hex bzip2 short uchar double block MET_UCHAR /dev/zero"
WORDS = f"{WORDS} MET_DOUBLE MET_STRING . .. right-anterior-superior left-anterior-superior scanner-xyz 3D-right-handed"
WORDS = [*WORDS.split(), "", "1 2", "1 2 3 4"]
META_KEYS = ["NDims", "DimSize", "HeaderSize", "ElementNumberOfChannels", "ElementType", "Offset", "Position", "Origin"]
META_KEYS += ["CenterOfRotation", "Rotation", "AnatomicalOrientation", "ElementSize", "ElementSpacing", "BinaryData"]
META_KEYS += ["BinaryDataByteOrderMSB", "ElementByteOrderMSB", "Orientation", "CompressedData", "CompressedDataSize"]
META_KEYS += ["TransformMatrix", "ElementDataFile", "ObjectType", "Modality", "Comment", "ID", "Name"]
NRRD_KEYS = [
    "type",
    "dimension",
    "space",
    "space dimension",
    "sizes",
    "space directions",
    "kinds",
    "endian",
    "encoding",
]
NRRD_KEYS += ["space origin", "spacings", "axis mins", "axis maxs", "centers", "labels", "units", "block size", "#"]
NRRD_KEYS += [
    "measurement frame",
    "content",
    "byte skip",
    "line skip",
    "data file",
    "number",
    "space units",
    "datafile",
]
LINE = re.compile(r"([\w ]+?)(\s*[:=]\s*)(.*)$")


def fuzzed_metaimage(chance):
    return _of_lines(chance, ".mha", re.compile(rb"(?m)^ElementDataFile = LOCAL(?=\n)"), META_KEYS, " = ")


def fuzzed_nrrd(chance):
    return _of_lines(chance, ".nrrd", re.compile(rb"(?=\n\n)"), NRRD_KEYS, ": ")


def _of_lines(chance, suffix, end, keys, sign):
    array, packed = array_of(chance), chance.random() < 0.3
    whole = encoded(itk_image(array), suffix, packed)
    head = end.search(whole).end()
    before = whole[:head].decode().split("\n")
    lines = before.copy()
    for _ in range(chance.choice([1, 1, 2])):
        _change_line(chance, lines, keys, sign)
    changes = [f"+{line}" for line in lines if line not in before] + [
        f"-{line}" for line in before if line not in lines
    ]
    return Fuzzed(suffix, "\n".join(lines).encode() + whole[head:], array, changes)


def encoded(image, suffix, packed):
    """The bytes that ITK writes."""
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, f"{folder}/a{suffix}", packed)
        with open(f"{folder}/a{suffix}", "rb") as stream:
            return stream.read()


def _change_line(chance, lines, keys, sign):
    place = chance.randrange(len(lines))
    how = chance.choice(["word", "word", "word", "value", "drop", "twice", "add", "swap", "key", "case"])
    found = LINE.match(lines[place])
    if how == "drop":
        del lines[place]
    elif how == "add":
        values = " ".join(chance.choice(WORDS) for _ in range(chance.choice([1, 1, 2, 3])))
        lines.insert(chance.randrange(len(lines)), chance.choice(keys) + sign + values)
    elif how == "swap":
        other = chance.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    elif how == "case":
        line = lines[place]
        lines[place] = chance.choice(
            [line.upper(), line.lower(), line + " ", line.replace(sign, sign.strip()), line + "\r"]
        )
    elif found:
        key, middle, value = found.groups()
        words = value.split(" ")
        words[chance.randrange(len(words))] = chance.choice(WORDS)
        if how == "key":
            lines[place] = chance.choice(keys) + middle + value
        elif how == "twice":
            lines.insert(place + chance.randrange(2), key + middle + " ".join(words))
        else:
            lines[place] = key + middle + (" ".join(words) if how == "word" else chance.choice(WORDS))


TYPES = {"MET_SHORT": "i2", "MET_UCHAR": "u1", "MET_FLOAT": "f4", "MET_DOUBLE": "f8", "MET_CHAR": "i1"}
TYPES |= {"short": "i2", "unsigned char": "u1", "uchar": "u1", "float": "f4", "double": "f8"}


def judge_metaimage(file, volume, fuzzed):
    """Right are the voxels behind the header and the place, as the usual keys say; what no key says has its default."""
    head, _, body = file.read_bytes().partition(b"ElementDataFile")
    body = body.partition(b"\n")[2]
    fields = dict(re.findall(r"(?m)^(\w+)\s*=[^\S\n]*(.*?)\s*$", head.decode()))
    for other, usual in (("Position", "Offset"), ("Origin", "Offset"), ("Rotation", "TransformMatrix")):
        fields.setdefault(usual, fields.get(other, ""))
    fields["TransformMatrix"] = fields["TransformMatrix"] or fields.get("Orientation", "")
    size = numbers(fields["DimSize"])
    # ITK falls back on ElementSize where there is no ElementSpacing
    spacing = numbers(fields.get("ElementSpacing", fields.get("ElementSize", ""))) or [1, 1, 1]
    axes = np.reshape(numbers(fields["TransformMatrix"]) or np.eye(3), (3, 3)).T * spacing
    msb = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
    array = _voxels(body, fields["ElementType"], msb, fields.get("CompressedData", "").lower() == "true", size)
    return np.array_equal(array, volume.array[0]) and _lies(volume, axes, numbers(fields["Offset"]) or [0, 0, 0])


def judge_nrrd(file, volume, fuzzed):
    """The same of a NRRD, whose directions hold the spacing, and whose space tells the signs."""
    head, _, body = file.read_bytes().partition(b"\n\n")
    fields = {key.lower(): value for key, value in re.findall(r"(?m)^([\w ]+?):\s*(.*?)\s*$", head.decode())}
    size = numbers(fields["sizes"])
    rows = [numbers(row) for row in re.findall(r"\(.*?\)", fields.get("space directions", ""))]
    axes = np.transpose(rows) if rows else np.diag(numbers(fields.get("spacings", "")) or [1, 1, 1])
    signs = {"left": 1, "right": -1}.get(fields.get("space", "left").lower().split("-")[0], 1)
    signs = np.array([signs, -1 if "-anterior-" in fields.get("space", "").lower() else 1, 1])
    origin = signs * (numbers(fields.get("space origin", "")) or [0, 0, 0])
    big, packed = fields.get("endian", "").lower() == "big", fields["encoding"].lower() in ("gzip", "gz")
    array = _voxels(body, fields["type"].lower(), big, packed, size)
    return np.array_equal(array, volume.array[0]) and _lies(volume, signs[:, None] * axes, origin)


def numbers(text):
    return [float(word) for word in re.sub(r"[(),]", " ", text).split()]


def _voxels(body, kind, big, packed, size):
    content = zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body) if packed else body
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
    size = [int(n) for n in size]
    return np.frombuffer(content, dtype, count=int(np.prod(size))).reshape(size, order="F")


def _lies(volume, axes, origin):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    return np.allclose(lps[:3, :3], axes, rtol=1e-5, atol=1e-6) and np.allclose(lps[:3, 3], origin, rtol=1e-5)


# PNG: chunks with sound checksums, and what they claim


def fuzzed_png(chance):
    pixels = (voxels(chance.randrange(3))[..., 0].clip(0, 255) // 3).astype("u1")
    kinds = {"grey": pixels, "colour": np.stack([pixels, pixels // 2, pixels // 3], -1), "bits": pixels > 0}
    picture = Image.fromarray((kinds | {"deep": pixels.astype("u2") * 256})[chance.choice([*kinds, "deep"])])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    chunks, changes = _chunks(stream.getvalue()), []
    for _ in range(chance.choice([1, 1, 2])):
        changes.append(_change_chunk(chance, chunks))
    if chance.random() < 0.1:
        changes.append("turned")
        chunks.insert(1, [b"eXIf", bytearray(EXIF)])
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, bytes(content)) for name, content in chunks)
    if chance.random() < 0.1:  # a length or a checksum that lies
        place = chance.randrange(8, len(content) - 4)
        content = content[:place] + struct.pack(">I", chance.choice(WIDE)) + content[place + 4 :]
    array = np.asarray(picture)
    array = array.astype("u1") if array.dtype == bool else array
    return Fuzzed(".png", content, np.moveaxis(array, -1, 0) if array.ndim == 3 else array, changes)


def _chunks(png):
    place, found = 8, []
    while place < len(png) and (not found or found[-1][0] != b"IEND"):
        (length,) = struct.unpack_from(">I", png, place)
        found.append([png[place + 4 : place + 8], bytearray(png[place + 8 : place + 8 + length])])
        place += length + 12
    return found


EXIF = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # an orientation of 6: turned by 90 degrees
BOMB = b"k\0\0" + zlib.compress(bytes(10**6))


def _change_chunk(chance, chunks):
    place = chance.randrange(len(chunks))
    how = chance.choice(["header", "header", "header", "drop", "twice", "move", "insert", "name", "rows", "split"])
    name, content = chunks[place]
    if how == "header" and len(chunks[0][1]) == 13:
        field = chance.randrange(7)
        if field < 2:
            (now,) = struct.unpack_from(">I", chunks[0][1], 4 * field)
            struct.pack_into(">I", chunks[0][1], 4 * field, chance.choice([*WIDE, now + 1, now - 1, 2 * now]) % 2**32)
        else:
            chunks[0][1][6 + field] = chance.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        return how, field, bytes(chunks[0][1]).hex()
    if how == "drop":
        del chunks[place]
    elif how == "twice":
        chunks.insert(place, [name, bytearray(content)])
    elif how == "move":
        chunks.insert(chance.randrange(len(chunks)), chunks.pop(place))
    elif how == "insert":
        names = [
            b"tRNS",
            b"PLTE",
            b"gAMA",
            b"zTXt",
            b"iTXt",
            b"eXIf",
            b"acTL",
            b"fdAT",
            b"ABCD",
            b"abcd",
            b"IEND",
            b"iCCP",
        ]
        name = chance.choice(names)
        chunks.insert(
            chance.randrange(1, len(chunks) + 1), [name, bytearray(chance.choice([b"", bytes(6), BOMB, EXIF]))]
        )
    elif how == "name":
        chunks[place][0] = name = bytes(letter ^ (32 * chance.randrange(2)) for letter in name)
    elif how == "split":
        half = len(content) // 2
        chunks[place : place + 1] = [[name, content[:half]], [name, content[half:]]]
    elif how == "rows" and name == b"IDAT" and content[:1] == b"\x78":  # the beginning of a stream
        rows = zlib.decompressobj().decompress(content)
        changed = [rows[: len(rows) // 2], rows * 3, bytes([7]) + rows[1:], rows + bytes(10**7)]
        chunks[place][1] = bytearray(zlib.compress(chance.choice(changed)))
    return how, name


def judge_png(file, volume, fuzzed):
    """Right is what a few lines read by the letter of the standard, if all chunks are whole and none turns or hides."""
    png = file.read_bytes()
    chunks, place = _chunks(png), 8
    for name, content in chunks:
        if png[place : place + len(content) + 12] != chunk(name, bytes(content)):
            return False  # a wrong checksum
        place += len(content) + 12
    names = [name for name, _ in chunks]
    hidden = b"tRNS" in names[: names.index(b"IDAT")] and chunks[0][1][9] != 3
    return not hidden and [b"eXIf", EXIF] not in chunks and np.array_equal(volume.array, png_pixels(chunks))


def png_pixels(chunks):
    """The numbers in a PNG without interlacing, (channels, rows, columns), without alpha, which must be opaque."""
    width, height, depth, colours, packing, filters, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    assert packing == filters == interlaced == 0
    rows = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    step, length = max(samples * depth // 8, 1), -(-width * samples * depth // 8)
    assert len(rows) == height * (1 + length)
    above, lines = bytearray(length), []
    for start in range(0, len(rows), 1 + length):
        line = bytearray(rows[start + 1 : start + 1 + length])
        for i in range(length):
            a, b, c = line[i - step] if i >= step else 0, above[i], above[i - step] if i >= step else 0
            line[i] = (line[i] + [0, a, b, (a + b) // 2, _paeth(a, b, c)][rows[start]]) % 256
        lines.append(above := line)
    values = np.frombuffer(b"".join(lines), "u1").reshape(height, length)
    if depth == 16:
        values = values.view(">u2")
    elif depth < 8:
        bits = np.unpackbits(values, axis=1).reshape(height, -1, depth)
        values = (bits @ (1 << np.arange(depth)[::-1])).astype("u1")
    pixels = np.moveaxis(values[:, : width * samples].reshape(height, width, samples), -1, 0)
    if colours < 4:
        return pixels
    assert (pixels[-1] == 2**depth - 1).all()
    return pixels[:-1]


def _paeth(a, b, c):
    return min((a, b, c), key=lambda value: abs(a + b - c - value))


# TIFF: tags, their types and numbers, and the chain of pages

OPTIONS = [{}, {}, {"compression": "zlib"}, {"compression": "lzw"}, {"tile": (16, 16)}, {"rowsperstrip": 2}]
OPTIONS += [{"bigtiff": True}, {"byteorder": ">"}, {"metadata": None}, {"metadata": None, "tile": (16, 16)}]
TAGS = [254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 317, 320, 322, 323, 324, 325]
TAGS += [330, 338, 339, 0, 65535, 32997, 34665]


def fuzzed_tiff(chance):
    array = voxels(chance.randrange(3)).clip(0, 999).astype(chance.choice(["u1", "u2", "f4"]))
    array = np.moveaxis(array, -1, 0) if chance.random() < 0.4 else array[..., 0]
    options, stream = chance.choice(OPTIONS), io.BytesIO()
    tifffile.imwrite(stream, array, photometric="minisblack", **options)
    raw = bytearray(stream.getvalue())
    order = {b"II": "<", b"MM": ">"}[bytes(raw[:2])]
    pages, entries, pointers = _directory(raw, order)
    changes, before = [options], meanings(raw)
    for _ in range(chance.choice([1, 1, 2, 3])):
        changes.append(_change_tag(chance, raw, order, pages, entries, pointers))
    if chance.random() < 0.15:
        changes.append(_show_otherwise(chance, raw, order, entries))
    altered = any(page != before[1][0] for page in meanings(raw)[1])
    return Fuzzed(".tif", bytes(raw), array, changes, altered)


def _show_otherwise(chance, raw, order, entries):
    """Turn the page, or make white of its black: by the unit of its resolution, which is in its place then."""
    before, tag = chance.choice([(296, 274), (262, 262)])
    value = chance.choice([0, 3, 5, 6, 8] if tag == 262 else range(2, 9))
    for entry, offset in entries:
        if struct.unpack_from(order + "H", raw, entry)[0] == before:
            struct.pack_into(order + "H", raw, entry, tag)
            struct.pack_into(order + "H", raw, entry + offset, value)
            break
    return "shown", tag, value


MEANING = (258, 259, 262, 266, 274, 277, 284, 317, 339)  # tags that tell what the numbers stand for


def meanings(raw):
    """Type, count and value of the tags that tell what the numbers of a page stand for, page by page.

    They are left out where they are 1, as they are without a tag, but for that of the colours.
    """
    order = {b"II": "<", b"MM": ">"}[bytes(raw[:2])]
    big = struct.unpack_from(order + "H", raw, 2)[0] == 43
    pointer, count, length, form = ("Q", "Q", 20, "HHQ8s") if big else ("I", "H", 12, "HHI4s")
    found, seen, place = [], set(), 8 if big else 4
    while len(raw) > (page := struct.unpack_from(order + pointer, raw, place)[0]) > 0 and page not in seen:
        seen.add(page)
        (tags,) = struct.unpack_from(order + count, raw, page)
        first, place = page + struct.calcsize(count), page + struct.calcsize(count) + length * tags
        if place + struct.calcsize(pointer) > len(raw):
            break
        entries = [struct.unpack_from(order + form, raw, first + length * n) for n in range(tags)]
        ones = [(1, struct.pack(order + form, 1)) for form in ("B7x", "B3x", "H6x", "H2x", "I4x", "I")]
        kept = [
            (tag, *rest) for tag, *rest in entries if tag in MEANING and (tag == 262 or tuple(rest[1:]) not in ones)
        ]
        found.append({tag: rest for tag, *rest in kept})
    return order, found


def shown_as(raw, tag, default):
    """The numbers that a tag has on the pages."""
    order, pages = meanings(raw)
    sizes = {1: "B", 3: "H", 4: "I"}
    rest = [page.get(tag) for page in pages]
    return {struct.unpack_from(order + sizes.get(each[0], "H"), each[2])[0] if each else default for each in rest}


def _directory(raw, order):
    """Where the pages' numbers of tags stand, the tags, and the pointers to the next page."""
    big = struct.unpack_from(order + "H", raw, 2)[0] == 43
    pointer, count, length = ("Q", "Q", 20) if big else ("I", "H", 12)
    pointers, pages, entries = [8 if big else 4], [], []
    while place := struct.unpack_from(order + pointer, raw, pointers[-1])[0]:
        (tags,) = struct.unpack_from(order + count, raw, place)
        first = place + struct.calcsize(count)
        pages.append(place)
        entries += [(first + length * i, 12 if big else 8) for i in range(tags)]
        pointers.append(first + length * tags)
    return pages, entries, pointers


def _change_tag(chance, raw, order, pages, entries, pointers):
    how = chance.choice(["value", "value", "value", "value", "type", "count", "tag", "next", "tags"])
    entry, offset = chance.choice(entries)
    tag, kind = struct.unpack_from(order + "HH", raw, entry)
    form, place, choices = {
        "value": ("H" if kind == 3 else "I", entry + offset, WIDE),
        "type": ("H", entry + 2, [*range(19), 99]),
        "count": ("I", entry + 4, WIDE),
        "tag": ("H", entry, TAGS),
        "next": ("I", chance.choice(pointers), [0, 4, 8, 2**31, len(raw) - 10, *pages]),
        "tags": ("H", chance.choice(pages), WIDE),
    }[how]
    (now,) = struct.unpack_from(order + form, raw, place)
    value = chance.choice([*choices, *([now + 1, 2 * now] if how == "value" else [])]) % 256 ** struct.calcsize(form)
    struct.pack_into(order + form, raw, place, value)
    return how, tag, value


def judge_tiff(file, volume, fuzzed):
    """Right is what stood there, if nothing gives it another meaning, or what libtiff reads, by ITK or by Pillow."""
    array = volume.array[0] if volume.channels == 1 else volume.array
    raw = file.read_bytes()
    if not shown_as(raw, 262, None) <= {1, 2, 3} or shown_as(raw, 274, 1) != {1}:  # white is 0, turned
        return False
    if np.array_equal(array, fuzzed.array) and not fuzzed.altered:
        return True
    try:
        other = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="TIFFImageIO"))
        if np.array_equal(other.squeeze(), np.moveaxis(volume.array, 0, -1).squeeze()):
            return True
    except RuntimeError:
        pass
    try:
        with Image.open(file) as image:
            frames = [np.array(frame) for frame in ImageSequence.Iterator(image)]
    except (OSError, SyntaxError):  # of tags that do not matter; what is left are some of the pages
        pages = np.atleast_3d(fuzzed.array)
        return not fuzzed.altered and all(any(np.array_equal(one, page) for page in pages) for one in array)
    return np.array_equal(np.squeeze(np.stack(frames)), np.squeeze(array))
