"""What a file says before its voxels are read: shape, type and geometry, and the checks that formats share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import InputError

Kind = Literal["image", "label"]

DEFLATE_RATIO = 1100  # deflate and baseline JPEG pack at most 1032 bytes into one
JPEG_RATIO = 4096  # progressive JPEG: a bit for 8 x 8 samples of up to two bytes, and fewer samples for the colours
BOUNDLESS_RATIO = 1 << 16  # JPEG 2000 and its like say in some 200 bytes that a whole picture is black
SHEAR_LIMIT = 5e-5  # cosine between two axes; ITK refuses 1e-4
RESTORE = "fetch the file again from its source"


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Shape and geometry of a file, known without its voxels.

    Args:
        file: the file that was read, or the folder of a DICOM series.
        format: "NIfTI", "MetaImage", "NRRD", "DICOM", "TIFF", "PNG", "JPEG" or "BMP".
        shape: voxels along each spatial axis.
        channels: 1 for grey values, 3 for colours; alpha is not counted.
        dtype: of the voxels as stored, before a NIfTI's scaling.
        affine: (4, 4) float64 from voxel index to RAS+ millimetres; identity for the formats that have no geometry.
        stored_dims: spatial axes in the file; 3 for a 2D image that is stored as a volume of one slice.
    """

    file: Path
    format: str
    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype
    affine: np.ndarray
    stored_dims: int

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between voxel centres along each spatial axis, in millimetres (1 where there is no geometry)."""
        return tuple(np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0).tolist())


@dataclass(frozen=True, eq=False)
class Volume(VolumeHeader):
    """A `VolumeHeader` with its voxels: `array` of shape (channels, *shape), C-contiguous, in native byte order."""

    array: np.ndarray


Opened = tuple[VolumeHeader, Callable[[], np.ndarray]]  # the second reads the voxels, channel first


def check_affine(affine: np.ndarray, name: str = "affine") -> None:
    """Raise unless the (4, 4) affine is finite, has no axis of length 0, and no shear, which ITK cannot represent."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        raise InputError(
            f"the {name} has a non-finite value or an axis of length 0: {affine[:3].tolist()}",
            remedy="write the right geometry into the header, or convert the scan from its source again",
        )
    axes = affine[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_LIMIT:
        raise InputError(
            f"the {name} is sheared, its axes are not at right angles: {affine[:3].tolist()}",
            remedy="resample the volume to a grid with right angles",
        )


def check_claim(claimed: int, file: Path, offset: int = 0, ratio: int = 1) -> None:
    """Refuse a header that claims more bytes than its file can hold, before memory is asked for."""
    held = max(file.stat().st_size - offset, 0)
    if claimed > held * ratio:
        most = f" that unpack to at most {held * ratio}" if ratio > 1 else ""
        raise InputError(
            f"is truncated: the header claims {claimed} bytes of voxels, the file holds {held}{most}", remedy=RESTORE
        )


def split_axes(size: tuple[int, ...], extra: tuple[int, ...], spatial_dims: int) -> tuple[tuple[int, ...], int]:
    """Turn the first three axes and the further ones, such as (X, Y, 1) and (C,), into spatial shape and channels."""
    if min(size + extra) < 1:
        raise InputError(f"has an axis of size 0: shape {size + extra}", remedy=RESTORE)
    if len(size) < spatial_dims:
        raise InputError(
            f"holds one 2D image of {size} pixels; this bundle takes 3D volumes",
            remedy="stack the slices into one volume, or use a 2D bundle",
        )
    if math.prod(size[spatial_dims:]) > 1:
        raise InputError(
            f"holds {size[2]} slices; this bundle takes 2D images",
            remedy="split the volume into one file per slice, or use a 3D bundle",
        )
    channels = [n for n in extra if n > 1]
    if len(channels) > 1:
        raise InputError(f"has several axes beyond space: {extra}", remedy="keep one, which becomes the channels")
    return size[:spatial_dims], channels[0] if channels else 1


def check_upright(orientation: int) -> None:
    """Raise unless the orientation tag (TIFF 274, EXIF) is 1, for pixels that are stored as they are shown."""
    if orientation != 1:
        raise InputError(
            f"is stored turned (orientation tag {orientation}), which viewers undo and label maps may not know",
            remedy="turn the pixels themselves and remove the tag",
        )
