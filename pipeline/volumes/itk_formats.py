"""MetaImage and NRRD, which ITK reads: their LPS geometry is turned into RAS."""

from __future__ import annotations

import math
import os
import re
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import SimpleITK as sitk

from pipeline.errors import InputError
from pipeline.volumes.header import DEFLATE_RATIO, RESTORE, Kind, Opened, VolumeHeader, check_claim, split_axes

# The keys without which ITK goes on, and takes the voxels for others or for lying elsewhere; further spellings of each.
METAIMAGE = {
    "ElementSpacing": (),
    "TransformMatrix": ("Rotation", "Orientation"),
    "Offset": ("Position", "Origin"),
    "BinaryData": (),
    "BinaryDataByteOrderMSB": ("ElementByteOrderMSB",),
    "CompressedData": (),
    "ElementNumberOfChannels": (),
    "HeaderSize": (),
    "NDims": (),
    "DimSize": (),
    "ElementType": (),
}
SPELLINGS = {spelling: key for key, others in METAIMAGE.items() for spelling in (key, *others)}
PLACED_KINDS = ("domain", "space", "time", "???", "none")  # of a NRRD's axes that ITK takes for axes of space
UNPLACED = ("scanner-xyz", "3d-right-handed", "3d-left-handed")  # spaces of a NRRD that ITK takes for DICOM's
OTHERS = ("compresseddatasize", "elementsize", "elementmin", "elementmax")  # keys of other meaning, spelt alike
GZIP = b"\x1f"  # with which a member begins
ELEMENTS = r"MET_(U?(CHAR|SHORT|INT|LONG|LONG_LONG)|FLOAT|DOUBLE)(_ARRAY)?"
MOST_AXES = 10  # of a MetaImage; ITK goes wherever a larger NDims leads it in memory


def open_itk(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the header of a MetaImage or NRRD file, and return it with the function that loads the voxels."""
    name = "NRRD" if path.suffix.lower() == ".nrrd" else "MetaImage"
    data_file, offset, packed, order = _voxel_bytes(path, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if name == "NRRD" else "MetaImageIO")
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) > 3:
        raise InputError(f"has {len(size)} axes", remedy="store channels as the components of a 2D or 3D image")
    shape, channels = split_axes(size, (components,), spatial_dims)
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    words = re.fullmatch(r"(?:vector of )?(\d+)-bit (signed integer|unsigned integer|float)", pixel)
    if not words:
        raise InputError(f"holds voxels of type '{pixel}'", remedy="convert them to whole or real numbers")
    dtype = np.dtype({"s": "i", "u": "u", "f": "f"}[words[2][0]] + str(int(words[1]) // 8))
    nbytes = math.prod(size) * components * dtype.itemsize
    check_claim(nbytes, data_file, offset, 1 if packed is None else DEFLATE_RATIO)

    def load() -> np.ndarray:
        voxels = b"" if packed is None else _inflated(data_file, offset, nbytes, packed)
        if voxels and order:  # where ITK cannot unpack them, it returns whatever the memory held
            return np.frombuffer(voxels, dtype.newbyteorder(order)).reshape(channels, *shape, order="F")
        del voxels
        return sitk.GetArrayFromImage(reader.Execute()).T.reshape(channels, *shape)

    dims = len(size)
    affine = np.eye(4)
    affine[:dims, :dims] = np.reshape(reader.GetDirection(), (dims, dims)) * reader.GetSpacing()
    affine[:dims, 3] = reader.GetOrigin()
    affine[:2] *= -1  # LPS to RAS
    return VolumeHeader(path, name, shape, channels, dtype, affine + 0.0, dims), load  # + 0.0 turns -0 into 0


class _Voxels(NamedTuple):
    """Where the voxels of a file are.

    Attributes:
        file: the file itself, or the one that its header names.
        offset: of the first, in bytes.
        packed: bytes that they take when they are deflated; None: they are as they are; 0: the header does not say.
        order: of the bytes of a MetaImage's numbers, "<" or ">".
    """

    file: Path
    offset: int
    packed: int | None
    order: Literal["<", ">", ""] = ""


def voxel_file(path: Path) -> Path:
    """Return the file that holds the voxels of a MetaImage: itself, or the one that its header names."""
    return _voxel_bytes(path, "MetaImage").file


def _voxel_bytes(path: Path, name: str) -> _Voxels:
    """Find the voxels of a MetaImage or NRRD file, and check what its header says."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    last = rb"(?:\r?\n){2}" if name == "NRRD" else rb"(?m)^ElementDataFile\s*=\s*(.*?)\s*?\n"
    end = re.search(last, head)
    if end is None:
        raise InputError(f"has no complete {name} header", remedy=RESTORE)
    text = head[: end.start()].decode("latin-1")
    order: Literal["<", ">", ""] = ""
    if name == "NRRD":
        fields = {key.lower(): value for key, value in re.findall(r"(?m)^([\w ]+?)\s*:[^=\S]*(.*?)\s*$", text)}
        encoding, target, skipped = fields.get("encoding", "raw").lower(), "local", 0
        detached = {"data file", "datafile", "byte skip", "line skip"} & fields.keys()
        plain = encoding in ("raw", "gzip", "gz") and not detached
        packed = None if encoding == "raw" else 0
        _check_nrrd(fields)
    else:
        fields = _metaimage_fields(text)
        target = end[1].decode()
        plain = fields.get("BinaryData", "true").lower() == "true" and target != "LIST" and "%" not in target
        skipped, packed = _check_metaimage(fields, text, target)
        order = ">" if fields.get("BinaryDataByteOrderMSB", "").lower() == "true" else "<"
    if not plain:
        raise InputError(f"is a {name} of text or of several files", remedy="save it as one binary file")
    if target.lower() == "local":
        return _Voxels(path, end.end(), packed, order)
    if os.path.isabs(target) or os.path.normpath(target).startswith(".."):  # any file of the user's, as voxels
        reason = f"the header names '{target}', which is outside of its folder"
        raise InputError(reason, remedy="put both files into one folder, and correct the name")
    if (voxels := path.parent / target).exists() and (not voxels.is_file() or voxels.samefile(path)):
        raise InputError(f"the header names '{target}', which holds no voxels", remedy=RESTORE)
    return _Voxels(voxels, skipped, packed, order)


def _check_nrrd(fields: dict[str, str]) -> None:
    """Raise for what ITK would read by the beginning of a word, or for a place in a NRRD that it takes for another."""
    _integers(fields, "dimension", 1)
    _integers(fields, "sizes", int(fields.get("dimension", 0)))
    _numbers("space origin", re.sub(r"[(),]", " ", fields.get("space origin", "")))
    kinds = fields.get("kinds", "").lower().split()
    rows = {
        "spacings": fields.get("spacings", "").split(),
        "space directions": re.findall(r"\(.*?\)|[^\s()]+", fields.get("space directions", "")),
    }
    for key, words in rows.items():
        unplaced = [n for n, word in enumerate(words) if re.fullmatch(r"none|nan|\((\s*nan\s*,?)+\)", word, re.I)]
        placed = [words[n] for n in range(len(words)) if n not in unplaced]
        for number in unplaced:
            if len(kinds) != len(words) or kinds[number] in PLACED_KINDS:
                reason = f"the header's {key} are not finite for an axis that is not one of channels: {fields[key]}"
                raise InputError(reason, remedy="give them, or name the kinds of all axes")
        lengths = {len(_numbers(key, re.sub(r"[(),]", " ", word))) for word in placed}
        if lengths - {1 if key == "spacings" else len(placed)}:
            raise InputError(f"the header's {key} are not those of all axes: {fields[key]}", remedy=RESTORE)
    if fields.get("space", "").lower() in UNPLACED:
        raise InputError(
            f"lies in the space '{fields['space']}', in which nothing tells left from right",
            remedy="give its place in left-posterior-superior or right-anterior-superior",
        )


def _metaimage_fields(header: str) -> dict[str, str]:
    """Return what a MetaImage says, by the usual spelling of each key; raise for one that ITK would leave out."""
    fields: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    usual = {spelling.lower(): spelling for spelling in SPELLINGS}
    for key, value in re.findall(r"(?m)^([\w ]+?)\s*=[^\S\n]*(.*?)\s*$", header):
        near = [usual.get(key.lower(), ""), *get_close_matches(key, SPELLINGS, n=1, cutoff=0.8)]
        if key not in SPELLINGS and key.lower() not in OTHERS and any(near):
            doubtful[key] = near[0] or near[1]
        name = SPELLINGS.get(key, key)
        if name in fields and name in METAIMAGE:
            raise InputError(f"the header says {name} twice", remedy=f"remove one, or {RESTORE}")
        fields[name] = value
    for key, meant in doubtful.items():
        if SPELLINGS[meant] not in fields:  # one that is there as well makes the other a key of its own
            raise InputError(f"the header's {key} is unknown", remedy=f"spell it {meant}, or {RESTORE}")
    return fields


def _check_metaimage(fields: dict[str, str], header: str, target: str) -> tuple[int, int | None]:
    """Raise for what ITK would take for something else; return the bytes before the voxels, and of compressed ones."""
    for key in ("BinaryData", "BinaryDataByteOrderMSB", "CompressedData"):
        if fields.get(key, "true").lower() not in ("true", "false"):  # ITK goes by the first letter
            raise InputError(f"the header's {key} is neither true nor false: {fields[key]}", remedy=RESTORE)
    axes = _integers({"NDims": "0"} | fields, "NDims", 1)[0]
    if not 0 < axes <= MOST_AXES:
        raise InputError(f"the header's NDims is {axes}", remedy=RESTORE)
    if not re.fullmatch(ELEMENTS, fields.get("ElementType", "")):
        raise InputError(f"the header's ElementType is no number: {fields.get('ElementType')}", remedy=RESTORE)
    _integers({"DimSize": ""} | fields, "DimSize", axes)
    _integers(fields, "ElementNumberOfChannels", 1)
    counts = dict.fromkeys(("Offset", "ElementSpacing", "ElementSize", "CenterOfRotation"), axes)
    for key, count in (counts | {"TransformMatrix": axes**2}).items():
        if key in fields and len(_numbers(key, fields[key])) != count:  # ITK would go on in the next line, or take 0
            raise InputError(f"the header's {key} has not {count} numbers: {fields[key]}", remedy=RESTORE)
    (skipped,) = _integers({"HeaderSize": "0"} | fields, "HeaderSize", 1)
    is_packed = fields.get("CompressedData", "").lower() == "true"
    if skipped < 0 or (skipped and (is_packed or target.lower() == "local")):
        remedy = "save it without HeaderSize"
        raise InputError(f"the header says {skipped} bytes to skip before voxels that tell their end", remedy=remedy)
    if not is_packed:
        return skipped, None
    size = re.search(r"(?m)^CompressedDataSize\s*=\s*(\d+)\s*$", header)
    if size is None:  # ITK, which looks for just these letters, would guess it and misread
        raise InputError("the header does not say how many bytes are compressed", remedy=RESTORE)
    return 0, int(size[1])


def _integers(fields: dict[str, str], key: str, count: int) -> list[int]:
    """Return the whole numbers of a field, none where it is not there: ITK reads "3D" as 3, and 2^32 + 1 as 1."""
    words = fields.get(key, "").split()
    if key in fields and (len(words) != count or not all(re.fullmatch(r"-?\d{1,9}", word, re.A) for word in words)):
        reason = f"the header's {key} is no list of {count} whole numbers: {fields[key]}"
        raise InputError(reason, remedy=RESTORE)
    return [int(word) for word in words]


def _numbers(key: str, text: str) -> list[float]:
    """Return the numbers of a field, which ITK takes for 0 where they are none, or not finite."""
    try:
        found = [float(word) for word in text.split()]
    except ValueError as error:
        raise InputError(f"the header's {key} is no list of numbers: {text.strip()}", remedy=RESTORE) from error
    if not np.isfinite(found).all():
        raise InputError(f"the header's {key} is not finite: {text.strip()}", remedy=RESTORE)
    return found


def _inflated(file: Path, offset: int, nbytes: int, claimed: int) -> bytearray:
    """Unpack the voxels, to the checksum at their end, which ITK does not compare; a NRRD may have several members."""
    inflater, taken = zlib.decompressobj(32 + zlib.MAX_WBITS), 0  # 32: zlib or gzip, whichever it is
    voxels, rest = bytearray(), b""
    with file.open("rb") as stream:
        stream.seek(offset)
        while len(voxels) <= nbytes:
            packed = rest or stream.read(1 << 16)
            if inflater.eof:
                if claimed or len(voxels) == nbytes or packed[:1] != GZIP:
                    break
                inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
            if not packed:
                raise InputError(f"is truncated: {len(voxels)} of {nbytes} bytes of voxels", remedy=RESTORE)
            voxels += inflater.decompress(packed)
            rest = inflater.unused_data
            taken += len(packed) - len(rest)
    if len(voxels) != nbytes:
        raise InputError(f"unpacks to {len(voxels)} bytes of voxels, the header claims {nbytes}", remedy=RESTORE)
    if claimed not in (0, taken):
        raise InputError(f"holds {taken} compressed bytes, the header claims {claimed}", remedy=RESTORE)
    return voxels
