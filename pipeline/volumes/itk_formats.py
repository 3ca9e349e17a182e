"""MetaImage and NRRD, which ITK reads: their LPS geometry is turned into RAS."""

from __future__ import annotations

import math
import re
import zlib
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pipeline.errors import InputError
from pipeline.volumes.header import DEFLATE_RATIO, RESTORE, Kind, Opened, VolumeHeader, check_claim, split_axes

# The keys by which ITK places a MetaImage, in all their spellings.
GEOMETRY = ("ElementSpacing", "TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin")


def open_itk(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the header of a MetaImage or NRRD file, and return it with the function that loads the voxels."""
    name = "NRRD" if path.suffix.lower() == ".nrrd" else "MetaImage"
    data_file, offset, packed = _voxel_bytes(path, name)
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
        if packed is not None:
            _check_inflates(data_file, offset, nbytes, packed)
        return sitk.GetArrayFromImage(reader.Execute()).T.reshape(channels, *shape)

    dims = len(size)
    affine = np.eye(4)
    affine[:dims, :dims] = np.reshape(reader.GetDirection(), (dims, dims)) * reader.GetSpacing()
    affine[:dims, 3] = reader.GetOrigin()
    affine[:2] *= -1  # LPS to RAS
    return VolumeHeader(path, name, shape, channels, dtype, affine + 0.0, dims), load  # + 0.0 turns -0 into 0


def voxel_file(path: Path) -> Path:
    """Return the file that holds the voxels of a MetaImage: itself, or the one that its header names."""
    return _voxel_bytes(path, "MetaImage")[0]


def _voxel_bytes(path: Path, name: str) -> tuple[Path, int, int | None]:
    """Find the voxels of a MetaImage or NRRD file: their file, their offset in it, and how many bytes are deflated.

    The last is None for voxels as they are, and 0 for deflated ones of a NRRD, whose header does not say how many.
    """
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    last = rb"(?:\r?\n){2}" if name == "NRRD" else rb"(?m)^ElementDataFile\s*=\s*(.*?)\s*?\n"
    end = re.search(last, head)
    if end is None:
        raise InputError(f"has no complete {name} header", remedy=RESTORE)
    text = head[: end.start()].decode("latin-1").lower()
    fields = {key.strip(): value.strip() for key, value in re.findall(r"(?m)^([\w ]+?)\s*[:=](.*)$", text)}
    if name == "NRRD":
        encoding, target = fields.get("encoding", "raw"), "local"
        detached = {"data file", "datafile", "byte skip", "line skip"} & fields.keys()
        plain = encoding in ("raw", "gzip", "gz") and not detached
        packed = None if encoding == "raw" else 0
    else:
        target = end[1].decode()
        plain = fields.get("binarydata", "true") == "true" and target != "LIST" and "%" not in target
        packed = _check_fields(fields, head[: end.start()].decode("latin-1"))
    if not plain:
        raise InputError(f"is a {name} of text or of several files", remedy="save it as one binary file")
    local = target.lower() == "local"
    return path if local else path.parent / target, end.end() if local else 0, packed


def _check_fields(fields: dict[str, str], header: str) -> int | None:
    """Raise for what ITK would take for something else in a MetaImage; return how many bytes are compressed, if any."""
    for key in ("binarydata", "binarydatabyteordermsb", "elementbyteordermsb", "compresseddata"):
        if fields.get(key, "true") not in ("true", "false"):  # ITK goes by the first letter
            raise InputError(f"the header's {key} is neither true nor false: {fields[key]}", remedy=RESTORE)
    for key in ("offset", "position", "origin", "elementspacing", "transformmatrix"):  # ITK takes "inf" for 0
        if not np.isfinite([float(number) for number in fields.get(key, "").split()]).all():
            raise InputError(f"the header's {key} is not finite: {fields[key]}", remedy=RESTORE)
    for key in re.findall(r"(?m)^([\w ]+?)\s*=", header):  # ITK would leave it out, and place the image elsewhere
        if key not in GEOMETRY and (near := get_close_matches(key, GEOMETRY, n=1, cutoff=0.8)):
            raise InputError(f"the header's {key} is unknown", remedy=f"spell it {near[0]}, or {RESTORE}")
    if fields.get("compresseddata") != "true":
        return None
    count = re.search(r"(?m)^CompressedDataSize\s*=\s*(\d+)\s*$", header)
    if count is None:  # ITK, which looks for just these letters, would guess it and misread
        raise InputError("the header does not say how many bytes are compressed", remedy=RESTORE)
    return int(count[1])


def _check_inflates(file: Path, offset: int, nbytes: int, claimed: int) -> None:
    """Unpack the voxels once only to see the checksum at their end, which ITK does not compare."""
    inflater, total, taken = zlib.decompressobj(32 + zlib.MAX_WBITS), 0, 0  # 32: zlib or gzip, whichever it is
    with file.open("rb") as stream:
        stream.seek(offset)
        while not inflater.eof:
            packed = stream.read(1 << 16)
            total += len(inflater.decompress(packed))
            taken += len(packed) - len(inflater.unused_data)
            if not packed:
                raise InputError(f"is truncated: {total} of {nbytes} bytes of voxels", remedy=RESTORE)
    if total != nbytes:
        raise InputError(f"unpacks to {total} bytes of voxels, the header claims {nbytes}", remedy=RESTORE)
    if claimed not in (0, taken):
        raise InputError(f"holds {taken} compressed bytes, the header claims {claimed}", remedy=RESTORE)
