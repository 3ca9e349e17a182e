"""Small files of every format, and how a test says that one is refused."""

import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from pipeline.errors import InputError
from pipeline.volumes.reading import read_volume

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
    """Write a TIFF file, and return its name."""
    tifffile.imwrite(file, array, photometric=photometric, **options)
    return file


def chunk(name, content):
    """Return one chunk of a PNG file, with its checksum."""
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
