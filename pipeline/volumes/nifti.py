"""NIfTI-1 and NIfTI-2, packed or not: header, forms and voxels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from pipeline.errors import InputError
from pipeline.volumes.header import (
    DEFLATE_RATIO,
    RESTORE,
    Kind,
    Opened,
    VolumeHeader,
    check_affine,
    check_claim,
    split_axes,
)
from pipeline.volumes.packing import unpacked

TURN_LIMIT = 2e-3  # a qform's float32 quaternion is off by up to 1e-3 close to half a turn, where most scanners work
OFFSET_LIMIT = 1 << 24  # bytes of a header with its extensions
TAIL_LIMIT = 1 << 26  # bytes behind the voxels that are read for the checksum at their end
PIECE = 1 << 20

_log = logging.getLogger(__name__)


def nifti_header(path: Path) -> nib.Nifti1Header:
    """Read the header of a NIfTI-1 or NIfTI-2 file that keeps header and voxels together."""
    with _inflated(path) as stream:
        block = stream.read(540)
    kinds = [kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(block)]
    if not kinds:
        raise InputError("is not a NIfTI file, or its header is truncated", remedy=RESTORE)
    header = kinds[0](block[: kinds[0].sizeof_hdr], check=False)
    if header["magic"] != kinds[0].single_magic:
        raise InputError("has no NIfTI magic bytes", remedy="convert an Analyze or .hdr/.img pair to one .nii file")
    _check_fields(header)
    header.check_fix(logger=_log, error_level=40)
    return header


@dataclass(frozen=True, eq=False)
class NiftiVoxels:
    """Where the voxels of a file stand, and what they stand for.

    Args:
        dtype: as stored, in the file's byte order.
        shape: of the array in the file's own order, whose first axis is the fastest: (*spatial, channels).
        offset: bytes before the first voxel, of the unpacked file.
        slope: what a stored number is multiplied by, None where numbers stand for themselves.
        inter: what is added to it then.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    slope: float | None
    inter: float | None

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    def values(self, stored: np.ndarray) -> np.ndarray:
        """Return what stored numbers (*spatial, channels) stand for, channel first."""
        scaled = stored if self.slope is None else apply_read_scaling(stored, self.slope, self.inter)
        return np.moveaxis(scaled, -1, 0)


def open_nifti(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the header of a NIfTI file, and return it with the function that loads the voxels."""
    header, voxels = nifti_layout(path, spatial_dims, kind)

    def load() -> np.ndarray:
        with nifti_stream(path, voxels) as stream:
            stored = stream.read(voxels.nbytes)
            if len(stored) < voxels.nbytes:
                raise InputError(f"is truncated: {len(stored)} of {voxels.nbytes} bytes of voxels", remedy=RESTORE)
            read_tail(stream)
        return voxels.values(np.frombuffer(stored, voxels.dtype).reshape(voxels.shape, order="F"))

    return header, load


def nifti_layout(path: Path, spatial_dims: int, kind: Kind) -> tuple[VolumeHeader, NiftiVoxels]:
    """Check the header of a NIfTI file, and return it with where its voxels stand."""
    header = nifti_header(path)
    stored = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    shape, channels = split_axes(stored[:3], stored[3:], spatial_dims)
    slope, inter = header.get_slope_inter()
    scaled = slope is not None and (slope, inter) != (1, 0)
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    voxels = NiftiVoxels(dtype, (*shape, channels), offset, *((slope, inter) if scaled else (None, None)))
    check_claim(offset + voxels.nbytes, path, ratio=DEFLATE_RATIO if is_packed(path) else 1)
    if scaled and kind == "label":
        raise InputError(
            f"scales its labels by {slope} and adds {inter} (scl_slope, scl_inter)",
            remedy="store the labels as integers with scl_slope 1 and scl_inter 0",
        )
    return VolumeHeader(path, "NIfTI", shape, channels, dtype, _nifti_affine(header), min(len(stored), 3)), voxels


@contextmanager
def nifti_stream(path: Path, voxels: NiftiVoxels) -> Iterator[BinaryIO]:
    """Open a file, unpacked, at its first voxel."""
    with _inflated(path) as stream:
        stream.read(voxels.offset)
        yield stream


def is_packed(path: Path) -> bool:
    """Tell by the name whether a file is packed by gzip."""
    return path.name.lower().endswith(".gz")


def _nifti_affine(header: nib.Nifti1Header) -> np.ndarray:
    """Return the sform, else the qform, in millimetres; both must be sound and agree where both are given."""
    forms = {"sform": header.get_sform, "qform": header.get_qform}
    given = {name: form() for name, form in forms.items() if header[f"{name}_code"] > 0}
    if not given:
        raise InputError(
            "has neither a qform nor an sform, so that nothing tells left from right",
            remedy="convert the scan from its source again, or set a form whose directions you know",
        )
    millimetres = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)  # metre, micron; unknown means mm
    for name, affine in given.items():
        affine[:3] *= millimetres
        check_affine(affine, name)
    if len(given) == 2:
        _check_forms_agree(given["sform"], given["qform"])
    return next(iter(given.values()))


def _check_fields(header: nib.Nifti1Header) -> None:
    """Raise for what nibabel would mend or pass over, and other readers take for something else."""
    axes, offset, sides = int(header["dim"][0]), float(header["vox_offset"]), header["pixdim"][1:4]
    qfac, placed = float(header["pixdim"][0]), int(header["qform_code"]) > 0
    problems = {
        f"has {axes} axes (dim[0])": not 1 <= axes <= 7,
        f"begins its voxels at byte {offset:g}, within its header": not offset >= header.single_vox_offset,
        f"begins its voxels at byte {offset:g}, far behind any header": offset > OFFSET_LIMIT,
        f"has a negative voxel size (pixdim): {sides.tolist()}": placed and (sides[:axes] < 0).any(),
        f"has a voxel size of 0 (pixdim), by which its qform goes: {sides.tolist()}": placed and not sides[:axes].all(),
        f"has pixdim[0] = {qfac:g}, where -1 or 1 tells a mirrored qform": placed and qfac not in (-1, 0, 1),
    }
    for form in ("qform_code", "sform_code"):
        problems[f"has the {form} {header[form]}, which NIfTI does not know"] = not 0 <= header[form] <= 5
    for reason, found in problems.items():
        if found:
            raise InputError(reason, remedy="write the right geometry into the header, or fetch the file again")


def read_tail(stream: BinaryIO) -> None:
    """Read to the very end, where gzip keeps its checksum; a few bytes may unpack to more than anyone can read."""
    tail = 0
    while piece := stream.read(PIECE):
        tail += len(piece)
        if tail > TAIL_LIMIT:
            raise InputError(f"holds more than {TAIL_LIMIT} bytes behind its voxels", remedy=RESTORE)


def _check_forms_agree(sform: np.ndarray, qform: np.ndarray) -> None:
    lengths, others = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    turn = np.abs(sform[:3, :3] / lengths - qform[:3, :3] / others).max()
    shift = np.abs(sform[:3, 3] - qform[:3, 3]).max()
    # Origins and spacings are stored as float32 in both forms: 1000 mm has a step of 0.00006 mm.
    near = 1e-3 * lengths.min() + 1e-6 * np.abs(sform[:3, 3]).max()
    if turn > TURN_LIMIT or shift > near or np.abs(lengths - others).max() > near:
        raise InputError(
            f"qform and sform disagree: qform {qform[:3].round(4).tolist()}, sform {sform[:3].round(4).tolist()}",
            remedy="find out which is right and copy it over the other (nibabel: set_qform, set_sform)",
        )


def _inflated(path: Path) -> BinaryIO:
    return unpacked(path) if is_packed(path) else path.open("rb")
