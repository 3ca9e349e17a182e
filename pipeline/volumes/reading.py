"""Strict reading: one reader per format, every voxel and the geometry checked, every damage an error with a name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.volumes.dicom import DICOM_SUFFIXES, find_series, is_dicom, open_dicom
from pipeline.volumes.header import RESTORE, Kind, Opened, Volume, VolumeHeader, check_affine
from pipeline.volumes.itk_formats import open_itk, voxel_file
from pipeline.volumes.nifti import open_nifti
from pipeline.volumes.pictures import PICTURES, open_picture
from pipeline.volumes.tiff import open_tiff
from pipeline.volumes.voxels import as_labels, check_finite


def read_volume(file: str | PathLike[str], spatial_dims: int, case: str | None = None, kind: Kind = "image") -> Volume:
    """Read an image or a label map, channel first, in the file's own number type.

    Spatial axes: (row, column) for PNG, JPEG, BMP, TIFF and one DICOM image, (page, row, column) for a TIFF of several
    pages; the file's own (i, j, k) for NIfTI, and (x, y, z) for MetaImage, NRRD and a DICOM series, whose LPS geometry
    is turned into RAS.

    Args:
        file: its suffix decides on the one reader that is tried. A DICOM series is named by its folder or any of its
            files, whatever their suffix; with two spatial axes such a file is one image.
        spatial_dims: 2 or 3; a file of the other kind is an error, but one slice passes as 2D.
        case: id for error messages.
        kind: "label" reads the indices of a palette, and demands one channel of whole numbers, kept exactly.
    """
    with naming(Path(file), case):
        header, load = _open(Path(file), spatial_dims, kind)
        array = load()
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "W", "O"])
        check_finite(array)
        if kind == "label":
            array = as_labels(array)
        return Volume(**vars(replace(header, dtype=array.dtype)), array=array)


def read_header(
    file: str | PathLike[str], spatial_dims: int, case: str | None = None, kind: Kind = "image"
) -> VolumeHeader:
    """Read and check shape, type and geometry as `read_volume` does, without touching the voxels."""
    with naming(Path(file), case):
        return _open(Path(file), spatial_dims, kind)[0]


def files_of(file: str | PathLike[str], spatial_dims: int) -> tuple[Path, ...]:
    """Return all files that `read_volume` reads for `file`: the slices of a DICOM series, the voxels of a .mhd header.

    Raises as the reading would where a header is too damaged to tell.
    """
    path = Path(file)
    if path.name.lower().endswith(SUFFIXES):
        if path.suffix.lower() != ".mhd" or not path.is_file():
            return (path,)
        with naming(path, None):
            return tuple(dict.fromkeys((path, voxel_file(path))))  # once, where the header holds them itself
    with naming(path, None):
        return find_series(path, spatial_dims).paths if path.is_dir() or is_dicom(path) else (path,)


def suffix_of(file: str | PathLike[str]) -> str:
    """Return the suffix that decides on the format, in lower case: ".nii.gz" for "Scan.1.NII.GZ"."""
    name = Path(file).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
    if suffix not in _FORMATS:
        raise InputError(f"unknown suffix '{suffix}'", file=file, remedy=f"convert to one of {', '.join(_FORMATS)}")
    return suffix


def reads_as_dicom(file: str | PathLike[str]) -> bool:
    """Tell whether `read_volume` takes a file, whatever its name, or a folder for DICOM."""
    return _opener(Path(file)) is open_dicom


def has_geometry(file: str | PathLike[str]) -> bool:
    """Tell whether a file's format says where its voxels lie and how large they are: not of pictures and TIFF."""
    return not Path(file).name.lower().endswith((*PICTURES, ".tif", ".tiff"))


@contextmanager
def naming(path: Path, case: str | None) -> Iterator[None]:
    """Turn whatever the reading of a file raises into an error that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(error.reason, case=case, file=error.file or path, remedy=error.remedy) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        remedy = _look_alike(path) or "correct the path or its permissions"
        raise InputError(reason, case=case, file=error.filename or path, remedy=remedy) from error
    except MemoryError as error:
        raise InputError("needs more memory than is free", case=case, file=path, remedy="split the file") from error
    except Exception as error:  # whatever a damaged file makes the format's library raise
        last_line = (str(error).strip() or "no further detail").splitlines()[-1].strip()
        reason = f"cannot be read ({type(error).__name__}: {last_line})"
        raise InputError(reason, case=case, file=path, remedy=RESTORE) from error


def _look_alike(path: Path) -> str | None:
    """Return what to do where the folder has the name in another form of Unicode: "ü" may be one character or two."""
    form = unicodedata.normalize("NFC", path.name)
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() and not path.exists() else []
    if form not in {unicodedata.normalize("NFC", name) for name in names}:
        return None
    return "rename the file: the folder has this name in another form of Unicode, where ü is u and two dots"


def _open(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    if spatial_dims not in (2, 3):
        raise InputError(f"cannot be read with {spatial_dims} spatial axes", remedy="set spatial_dims to 2 or 3")
    header, load = _opener(path)(path, spatial_dims, kind)
    if header.dtype.kind not in "biuf" or header.dtype.itemsize > 8:
        raise InputError(
            f"holds {header.dtype} voxels, where whole or real numbers are expected",
            remedy="store colours as channels along the fourth axis, and a label map as class numbers",
        )
    if kind == "label" and header.channels != 1:
        raise InputError(
            f"a label map has one channel, this file has {header.channels}",
            remedy="store class or instance numbers instead of colours or channels",
        )
    check_affine(header.affine)
    return header, load


def _opener(path: Path) -> Callable[[Path, int, Kind], Opened]:
    if path.name.lower().endswith(SUFFIXES):
        return _FORMATS[suffix_of(path)]
    if path.is_dir() or path.suffix.lower() in DICOM_SUFFIXES or is_dicom(path):
        return open_dicom
    return _FORMATS[suffix_of(path)]  # raises with the suffixes that are known


_FORMATS: dict[str, Callable[[Path, int, Kind], Opened]] = {
    ".nii": open_nifti,
    ".nii.gz": open_nifti,
    ".mha": open_itk,
    ".mhd": open_itk,
    ".nrrd": open_itk,
    ".tif": open_tiff,
    ".tiff": open_tiff,
    **dict.fromkeys(PICTURES, open_picture),
}

SUFFIXES = tuple(_FORMATS)  # of every file that can be read, in lower case
