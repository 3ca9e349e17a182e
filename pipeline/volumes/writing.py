"""Atomic writing of label maps and volumes in the geometry of the image they belong to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_path, atomic_write_bytes
from pipeline.volumes.header import VolumeHeader, check_affine
from pipeline.volumes.nifti import nifti_header
from pipeline.volumes.packing import packed
from pipeline.volumes.reading import read_header, suffix_of
from pipeline.volumes.voxels import as_labels, check_finite

FAST = 1  # compression level: label maps shrink a hundredfold at any level
PIECE = 2**24  # bytes that are put into a file's order at once
NIFTI_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
    "xyzt_units",
)


def write_label_map(
    file: str | PathLike[str],
    labels: np.ndarray,
    affine: np.ndarray | None = None,
    like: str | PathLike[str] | VolumeHeader | None = None,
    case: str | None = None,
) -> None:
    """Write class or instance numbers of shape (*spatial), in the smallest unsigned type that holds the largest.

    Floats pass where they are exact whole numbers. Other arguments as for `write_volume`.
    """
    with _naming(file, case):
        labels = as_labels(np.asarray(labels))
        if labels.size == 0 or (labels.dtype.kind == "i" and labels.min() < 0):
            raise InputError(
                f"a label map of shape {labels.shape} is empty or has negative numbers", remedy="count from 0 on"
            )
    smallest = np.min_scalar_type(int(labels.max()))
    write_volume(file, labels[None].astype(smallest, copy=False), affine, like, case)


def write_volume(
    file: str | PathLike[str],
    array: np.ndarray,
    affine: np.ndarray | None = None,
    like: str | PathLike[str] | VolumeHeader | None = None,
    case: str | None = None,
) -> None:
    """Write a channel-first volume; its file appears whole or not at all, and equal content gives equal bytes.

    Args:
        file: the suffix decides on the format: NIfTI, MetaImage, NRRD, TIFF or PNG; the last two hold no geometry.
        array: shape (channels, *spatial), spatial axes as `read_volume` gives them.
        affine: (4, 4), voxel index to RAS+ millimetres; identity unless given. Not together with `like`.
        like: an image of the same shape, or its header, whose geometry is copied: from NIfTI to NIfTI field by field,
            so that every program reads the same geometry from both files.
        case: id for error messages.
    """
    path, array = Path(file), _storable(np.asarray(array))
    if affine is not None and like is not None:
        raise ValueError("give either affine or like, not both")
    if like is not None and not isinstance(like, VolumeHeader):
        like = read_header(like, array.ndim - 1, case)
    affine = like.affine if like is not None else np.eye(4) if affine is None else np.asarray(affine, np.float64)
    with _naming(file, case):
        suffix = suffix_of(path)
        if suffix not in _WRITERS:
            raise InputError(f"{suffix[1:].upper()} files are only read, not written", remedy="choose .png or .tif")
        if like is not None and like.shape != array.shape[1:]:
            raise InputError(
                f"has shape {array.shape[1:]}, but the image '{like.file}' that it belongs to has {like.shape}",
                remedy="invert the cropping, resampling and padding before the result is written",
            )
        check_affine(affine)
        check_finite(array)
        try:
            with atomic_path(path) as temporary:
                _WRITERS[suffix](temporary, array, affine, like)
                if suffix == ".mhd":
                    _move_voxels_out(temporary, path)
        finally:
            if suffix == ".mhd" and path.parent.is_dir():
                _remove_stale_voxels(path)


@contextmanager
def _naming(file: str | PathLike[str], case: str | None) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(error.reason, case=case, file=file, remedy=error.remedy) from error


def _storable(array: np.ndarray) -> np.ndarray:
    # No format here has a type for truth values, and only TIFF one for float16.
    dtype = np.dtype({"bool": "u1", "float16": "f4"}.get(array.dtype.name, array.dtype))
    return array.astype(dtype.newbyteorder("="), copy=False)


def _write_nifti(temporary: Path, array: np.ndarray, affine: np.ndarray, like: VolumeHeader | None) -> None:
    shape = array.shape[1:]
    if array.shape[0] > 1 or (like is not None and like.stored_dims == 3):
        shape = (*shape, 1)[:3]
    voxels = np.moveaxis(array, 0, -1).reshape(shape if array.shape[0] == 1 else (*shape, array.shape[0]))
    planes = voxels.T  # the last axis first: its order in memory is that of the file
    step = max(PIECE // max(planes[:1].nbytes, 1), 1)
    slabs = (planes[start : start + step] for start in range(0, len(planes), step))
    write_nifti_slabs(temporary, voxels.shape, voxels.dtype, affine, like, slabs)


def write_nifti_slabs(
    temporary: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    affine: np.ndarray,
    like: VolumeHeader | None,
    slabs: Iterable[np.ndarray],
) -> None:
    """Write a NIfTI file of which only a slab is in memory; it is packed if its name ends in ``.gz``.

    Args:
        temporary: the file, which the caller makes appear.
        shape: voxels along each axis of the file.
        dtype: of the voxels.
        affine: (4, 4), voxel index to RAS+ millimetres.
        like: a header whose geometry is copied.
        slabs: one after the other along the file's last axis, which is the slowest, with their axes in reverse order.
    """
    empty = np.broadcast_to(np.zeros((), dtype), shape)
    header = _nifti_geometry(shape, affine, like)
    header.set_data_dtype(dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(empty, None, header)  # without an affine, the header's own forms are kept
    image.update_header()
    image.header.set_slope_inter(1, 0)
    with temporary.open("wb") as stream:
        if temporary.suffix.lower() == ".gz":
            with packed(stream) as inner:
                _write_single(inner, image.header, slabs)
        else:
            _write_single(stream, image.header, slabs)


def _write_single(stream: BinaryIO, header: nib.Nifti1Header, slabs: Iterable[np.ndarray]) -> None:
    """Write header and voxels, as nibabel's `to_stream` does, which goes line by line."""
    header.write_to(stream)
    stream.write(bytes(header.get_data_offset() - header.sizeof_hdr - 4))  # 4 bytes say that there is no extension
    for slab in slabs:
        stream.write(np.ascontiguousarray(slab).data)


def _nifti_geometry(shape: tuple[int, ...], affine: np.ndarray, like: VolumeHeader | None) -> nib.Nifti1Header:
    if like is None or like.format != "NIfTI":
        header = nib.Nifti2Header() if max(shape) > np.iinfo(np.int16).max else nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        header.set_xyzt_units("mm")
        return header
    source = nifti_header(like.file)
    header = type(source)()
    header.set_data_shape(shape)
    for field in NIFTI_GEOMETRY:
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    return header


def _write_itk(temporary: Path, array: np.ndarray, affine: np.ndarray, like: VolumeHeader | None) -> None:
    dims = array.ndim - 1
    if (like is not None and like.stored_dims == 3) or affine[2, :2].any() or affine[2, 3]:
        dims = 3  # a slice that lies freely in space
    voxels = array.reshape(*array.shape, *[1] * (dims + 1 - array.ndim)).T
    image = sitk.GetImageFromArray(voxels if array.shape[0] > 1 else voxels[..., 0], isVector=array.shape[0] > 1)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine + 0.0
    spacing = np.linalg.norm(lps[:dims, :dims], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:dims, :dims] / spacing).ravel().tolist())
    image.SetOrigin(lps[:dims, 3].tolist())
    nrrd = temporary.suffix.lower() == ".nrrd"
    single = temporary.with_name(temporary.name + (".nrrd" if nrrd else ".mha"))  # .mha: header and voxels in one
    try:
        writer = "NrrdImageIO" if nrrd else "MetaImageIO"
        sitk.WriteImage(image, str(single), useCompression=True, imageIO=writer, compressionLevel=FAST)
    finally:
        if single.exists():
            single.replace(temporary)  # a partial one too: it is removed after the look at the disk's free space


def _move_voxels_out(temporary: Path, final: Path) -> None:
    # The voxels' name depends on their content: the header that stands until the new one replaces it keeps its own.
    header, end, voxels = temporary.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    name = f"{_voxels_stem(final)}{hashlib.sha256(voxels).hexdigest()[:12]}.zraw"
    atomic_write_bytes(final.with_name(name), voxels)
    temporary.write_bytes(header + end.replace(b"LOCAL", name.encode()))


def _remove_stale_voxels(path: Path) -> None:
    named = path.read_bytes() if path.exists() else b""
    own = re.compile(re.escape(_voxels_stem(path)) + r"[0-9a-f]{12}\.zraw")
    for other in path.parent.iterdir():
        if own.fullmatch(other.name) and other.name.encode() not in named:
            other.unlink()


def _voxels_stem(path: Path) -> str:
    return path.stem.encode()[:200].decode(errors="ignore") + "-"  # a name may have 255 bytes


def _write_tiff(temporary: Path, array: np.ndarray, affine: np.ndarray, like: VolumeHeader | None) -> None:
    channels, axes = array.shape[0], "YX" if array.ndim == 3 else "ZYX"
    if channels == 1:
        array = array[0]
    elif channels == 3 and axes == "YX" and array.dtype.kind == "u":
        tifffile.imwrite(temporary, np.moveaxis(array, 0, -1), photometric="rgb")
        return
    else:
        axes = "C" + axes
    tifffile.imwrite(temporary, array, photometric="minisblack", metadata={"axes": axes})


def _write_png(temporary: Path, array: np.ndarray, affine: np.ndarray, like: VolumeHeader | None) -> None:
    if array.ndim != 3:
        raise InputError("PNG holds one 2D image, not a volume", remedy="write .tif or .nii.gz")
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"PNG holds whole numbers up to 65535, not {array.dtype} up to {array.max()}",
            remedy="write .tif or .nii.gz; for a result, which has its input's format, convert the input to .tif",
        )
    if array.shape[0] != 1 and (array.shape[0] != 3 or array.dtype != np.uint8):
        raise InputError(f"PNG holds no {array.shape[0]} channels of {array.dtype}", remedy="write .tif or .nii.gz")
    pixels = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, compress_level=FAST)


_WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray, VolumeHeader | None], None]] = {
    ".nii": _write_nifti,
    ".nii.gz": _write_nifti,
    ".mha": _write_itk,
    ".mhd": _write_itk,
    ".nrrd": _write_itk,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".png": _write_png,
}
