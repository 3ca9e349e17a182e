"""NIfTI volumes larger than memory: boxes read from the disk, label maps written slab by slab."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_path
from pipeline.volumes.header import RESTORE, VolumeHeader, check_affine
from pipeline.volumes.nifti import NiftiVoxels, is_packed, nifti_layout, nifti_stream, read_tail
from pipeline.volumes.reading import naming, read_header, suffix_of
from pipeline.volumes.region_reader import Box, check_box, whole
from pipeline.volumes.voxels import check_finite
from pipeline.volumes.writing import write_nifti_slabs

PIECE = 1 << 24  # bytes that are unpacked at once
SPARE = 1 << 28  # bytes that are left free on the disk of the scratch file
HOST = re.sub(r"[^\w.-]", "_", platform.node())
SLAB = 1 << 28  # bytes of labels in memory while they are written


class LargeNifti:
    """A NIfTI volume of which only the boxes that are asked for are read: a `RegionReader` for other processes too.

    The pages that a box lies on are mapped for as long as it is copied, so that they never count for long. Along the
    last axis a plane after the other lies on the disk.

    Args:
        header: of the file.
        voxels: how its numbers are stored.
        file: what they are read from, the file itself or its unpacked voxels.
        offset: bytes in it before the first voxel.
    """

    def __init__(self, header: VolumeHeader, voxels: NiftiVoxels, file: Path, offset: int) -> None:
        self.header, self._voxels, self._file, self._offset = header, voxels, file, offset
        self.shape, self.channels, self.affine = header.shape, header.channels, header.affine
        self.chunk = (*header.shape[:-1], 1)
        few = voxels.values(np.zeros((1,) * len(voxels.shape), voxels.dtype))
        self.dtype = few.dtype.newbyteorder("=")

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box: (channels, *box)."""
        check_box(box, self.shape)
        with naming(self.header.file, None):
            held = np.memmap(self._file, self._voxels.dtype, "r", self._offset, self._voxels.shape, order="F")
            values = np.array(self._voxels.values(held[box]), self.dtype, order="C")
            try:
                check_finite(values)
            except InputError as error:
                begin = tuple(part.start for part in box)
                reason = f"{error.reason} of the box that begins at {begin}"
                raise InputError(reason, remedy=error.remedy) from error
            return values


@contextmanager
def large_nifti(
    file: str | os.PathLike[str], spatial_dims: int, scratch: str | os.PathLike[str], case: str | None = None
) -> Iterator[LargeNifti]:
    """Open a NIfTI file for reading boxes; one packed by gzip is unpacked once, into a file that is removed at the end.

    Args:
        file: ``.nii`` or ``.nii.gz``, checked as `read_volume` does, its checksum too.
        spatial_dims: 2 or 3.
        scratch: folder for the unpacked voxels of a packed file; what killed processes left there is removed.
        case: id for error messages.
    """
    path = Path(file)
    read_header(path, spatial_dims, case)
    with naming(path, case):
        if suffix_of(path) not in (".nii", ".nii.gz"):
            raise InputError("is no NIfTI file", remedy="convert it to .nii")
        header, voxels = nifti_layout(path, spatial_dims, "image")
    if not is_packed(path):
        yield LargeNifti(header, voxels, path, voxels.offset)
        return
    folder = Path(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    plain = folder / f".unpacked-{HOST}-{os.getpid()}-{secrets.token_hex(4)}.raw"
    try:
        with naming(path, case):
            _unpack(path, voxels, plain)
        yield LargeNifti(header, voxels, plain, 0)
    finally:
        plain.unlink(missing_ok=True)


class Labels(Protocol):
    """What a label file is written from: a `LabelStore`, or its like."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]

    def read(self, box: Box) -> np.ndarray:
        """Return the labels (*box) of a box."""


def write_large_labels(
    file: str | os.PathLike[str],
    labels: Labels,
    like: VolumeHeader,
    highest: int | None = None,
    case: str | None = None,
    slab: int = SLAB,
) -> None:
    """Write a label map slab by slab: the same file as `write_label_map` makes of the whole, whole or not at all.

    Args:
        file: ``.nii`` or ``.nii.gz``.
        labels: what is written, on the image's grid.
        like: the header of the image that it belongs to.
        highest: the highest label, where it is known; else the labels are read once more to find it.
        case: id for error messages.
        slab: bytes of labels that may be in memory.
    """
    path = Path(file)
    with naming(path, case):
        if suffix_of(path) not in (".nii", ".nii.gz"):
            raise InputError("is no name of a NIfTI file", remedy="choose .nii or .nii.gz")
        if labels.shape != like.shape:
            reason = f"has shape {labels.shape}, but the image '{like.file}' that it belongs to has {like.shape}"
            raise InputError(reason, remedy="invert the cropping, resampling and padding before the result is written")
        check_affine(like.affine)
    boxes = list(_slabs(labels, slab))
    if highest is None:
        highest = max(int(labels.read(box).max()) for box in boxes)
    dtype = np.min_scalar_type(highest)
    shape = (*labels.shape, 1)[:3] if like.stored_dims == 3 else labels.shape
    turned = (_checked(labels.read(box), dtype).T for box in boxes)
    with atomic_path(path) as temporary:
        write_nifti_slabs(temporary, shape, dtype, like.affine, like, turned)


def _checked(labels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if labels.max(initial=0) > np.iinfo(dtype).max:
        raise ValueError(f"label {labels.max()} is above the highest that was named, or the labels have changed")
    return labels.astype(dtype, copy=False)


def _slabs(labels: Labels, most: int) -> Iterator[Box]:
    """Cut along the last axis, at borders of chunks where there is memory for whole ones."""
    plane = int(np.prod(labels.shape[:-1], dtype=np.int64)) * labels.dtype.itemsize
    thickness = max(most // plane, 1)
    chunk = labels.chunk[-1]
    thickness = thickness - thickness % chunk if thickness > chunk else thickness
    for start in range(0, labels.shape[-1], thickness):
        stop = min(start + thickness, labels.shape[-1])
        yield (*whole(labels.shape[:-1]), slice(start, stop))


def _unpack(path: Path, voxels: NiftiVoxels, plain: Path) -> None:
    """Unpack the voxels of a file to the end of its last member, where its checksum stands."""
    free = shutil.disk_usage(plain.parent).free
    if voxels.nbytes + SPARE > free:
        reason = f"its voxels take {voxels.nbytes / 2**30:.1f} GiB unpacked, and {free / 2**30:.1f} are free"
        raise InputError(f"{reason} in '{plain.parent}'", remedy="name another folder for scratch files, or unpack it")
    left = voxels.nbytes
    with nifti_stream(path, voxels) as stream, plain.open("wb") as target:
        while left and (piece := stream.read(min(left, PIECE))):
            target.write(piece)
            left -= len(piece)
        if left:
            done = voxels.nbytes - left
            raise InputError(f"is truncated: {done} of {voxels.nbytes} bytes of voxels", remedy=RESTORE)
        read_tail(stream)


def _remove_leftovers(folder: Path) -> None:
    for other in folder.iterdir():  # several machines may share it
        match = re.fullmatch(rf"\.unpacked-{re.escape(HOST)}-(\d+)-[0-9a-f]{{8}}\.raw", other.name)
        if match and not psutil.pid_exists(int(match[1])):
            other.unlink(missing_ok=True)
