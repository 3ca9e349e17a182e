"""MetaImage and NRRD, which ITK reads: their LPS geometry is turned into RAS."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pipeline.errors import InputError
from pipeline.volumes.header import DEFLATE_RATIO, RESTORE, Kind, Opened, VolumeHeader, check_claim, split_axes


def open_itk(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the header of a MetaImage or NRRD file, and return it with the function that loads the voxels."""
    name = "NRRD" if path.suffix.lower() == ".nrrd" else "MetaImage"
    data_file, offset, deflated = _voxel_bytes(path, name)
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
    check_claim(nbytes, data_file, offset, DEFLATE_RATIO if deflated else 1)

    def load() -> np.ndarray:
        if deflated:
            _check_inflates(data_file, offset, nbytes)
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


def _voxel_bytes(path: Path, name: str) -> tuple[Path, int, bool]:
    """Find the voxels of a MetaImage or NRRD file: their file, their offset in it, and whether they are deflated."""
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
        deflated = encoding != "raw"
    else:
        target = end[1].decode()
        plain = fields.get("binarydata", "true") == "true" and target != "LIST" and "%" not in target
        deflated = fields.get("compresseddata") == "true"
        for key in ("offset", "position", "origin", "elementspacing", "transformmatrix"):  # ITK takes "inf" for 0
            if not np.isfinite([float(number) for number in fields.get(key, "").split()]).all():
                raise InputError(f"the header's {key} is not finite: {fields[key]}", remedy=RESTORE)
    if not plain:
        raise InputError(f"is a {name} of text or of several files", remedy="save it as one binary file")
    local = target.lower() == "local"
    return path if local else path.parent / target, end.end() if local else 0, deflated


def _check_inflates(file: Path, offset: int, nbytes: int) -> None:
    """Unpack the voxels once only to see the checksum at their end, which ITK does not compare."""
    inflater, total = zlib.decompressobj(32 + zlib.MAX_WBITS), 0  # 32: zlib or gzip, whichever it is
    with file.open("rb") as stream:
        stream.seek(offset)
        while not inflater.eof:
            packed = stream.read(1 << 16)
            total += len(inflater.decompress(packed))
            if not packed:
                raise InputError(f"is truncated: {total} of {nbytes} bytes of voxels", remedy=RESTORE)
    if total != nbytes:
        raise InputError(f"unpacks to {total} bytes of voxels, the header claims {nbytes}", remedy=RESTORE)
