"""Strict reading: one reader per format, every voxel and the geometry checked, every damage an error with a name."""

from __future__ import annotations

import gzip
import logging
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from nibabel.volumeutils import apply_read_scaling
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

from pipeline.errors import InputError

Kind = Literal["image", "label"]

DEFLATE_RATIO = 1100  # deflate and baseline JPEG pack at most 1032 bytes into one
SHEAR_LIMIT = 5e-5  # cosine between two axes; ITK refuses 1e-4
TURN_LIMIT = 2e-3  # a qform's float32 quaternion is off by up to 1e-3 close to half a turn, where most scanners work
RESTORE = "fetch the file again from its source"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Shape and geometry of a file, known without its voxels.

    Args:
        file: the file that was read.
        format: "NIfTI", "MetaImage", "NRRD", "TIFF", "PNG", "JPEG" or "BMP".
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


_Opened = tuple[VolumeHeader, Callable[[], np.ndarray]]


def read_volume(file: str | PathLike[str], spatial_dims: int, case: str | None = None, kind: Kind = "image") -> Volume:
    """Read an image or a label map, channel first, in the file's own number type.

    Spatial axes: (row, column) for PNG, JPEG, BMP and TIFF, (page, row, column) for a TIFF of several pages; the file's
    own (i, j, k) for NIfTI, and (x, y, z) for MetaImage and NRRD, whose LPS geometry is turned into RAS.

    Args:
        file: its suffix decides on the one reader that is tried.
        spatial_dims: 2 or 3; a file of the other kind is an error, but one slice passes as 2D.
        case: id for error messages.
        kind: "label" reads the indices of a palette, and demands one channel of whole numbers, kept exactly.
    """
    with _naming(Path(file), case):
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
    with _naming(Path(file), case):
        return _open(Path(file), spatial_dims, kind)[0]


def suffix_of(file: str | PathLike[str]) -> str:
    """Return the suffix that decides on the format, in lower case: ".nii.gz" for "Scan.1.NII.GZ"."""
    name = Path(file).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
    if suffix not in _FORMATS:
        raise InputError(f"unknown suffix '{suffix}'", file=file, remedy=f"convert to one of {', '.join(_FORMATS)}")
    return suffix


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


@contextmanager
def _naming(path: Path, case: str | None) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(error.reason, case=case, file=error.file or path, remedy=error.remedy) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        remedy = "correct the path or its permissions"
        raise InputError(reason, case=case, file=error.filename or path, remedy=remedy) from error
    except MemoryError as error:
        raise InputError("needs more memory than is free", case=case, file=path, remedy="split the file") from error
    except Exception as error:  # whatever a damaged file makes the format's library raise
        last_line = (str(error).strip() or "no further detail").splitlines()[-1].strip()
        reason = f"cannot be read ({type(error).__name__}: {last_line})"
        raise InputError(reason, case=case, file=path, remedy=RESTORE) from error


def _open(path: Path, spatial_dims: int, kind: Kind) -> _Opened:
    if spatial_dims not in (2, 3):
        raise InputError(f"cannot be read with {spatial_dims} spatial axes", remedy="set spatial_dims to 2 or 3")
    header, load = _FORMATS[suffix_of(path)](path, spatial_dims, kind)
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


def as_labels(array: np.ndarray) -> np.ndarray:
    """Return integers as they are, and whole numbers stored as floats as int64; anything else raises."""
    if array.dtype.kind != "f":
        return array
    odd = array[array != np.rint(array)]  # NaN is odd too
    if odd.size:
        raise InputError(
            f"{odd.size} label values are not whole numbers, such as {odd[0]}",
            remedy="store class or instance numbers, without interpolation or scaling",
        )
    exact_below = 2 ** (np.finfo(array.dtype).nmant + 1)  # float32: 2^24 = 16777216
    if np.abs(array).max() >= exact_below:
        raise InputError(
            f"{array.dtype} labels from {exact_below} on are not exact", remedy="store the labels as integers"
        )
    return array.astype(np.int64)


def check_finite(array: np.ndarray) -> None:
    """Raise if a channel-first array holds NaN or infinity, and name the first such voxel."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise InputError(
            f"{len(bad)} of {array.size} voxels are NaN or infinite, the first at {tuple(bad[0, 1:].tolist())}",
            remedy="replace them by the background's value, or leave the case out",
        )


def _check_claim(claimed: int, file: Path, offset: int = 0, ratio: int = 1) -> None:
    """Refuse a header that claims more bytes than its file can hold, before memory is asked for."""
    held = max(file.stat().st_size - offset, 0)
    if claimed > held * ratio:
        most = f" that unpack to at most {held * ratio}" if ratio > 1 else ""
        raise InputError(
            f"is truncated: the header claims {claimed} bytes of voxels, the file holds {held}{most}", remedy=RESTORE
        )


def _split_axes(size: tuple[int, ...], extra: tuple[int, ...], spatial_dims: int) -> tuple[tuple[int, ...], int]:
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


# NIfTI


def _inflated(path: Path) -> BinaryIO:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


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
    header.check_fix(logger=_log, error_level=40)
    return header


def _open_nifti(path: Path, spatial_dims: int, kind: Kind) -> _Opened:
    header = nifti_header(path)
    stored = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    shape, channels = _split_axes(stored[:3], stored[3:], spatial_dims)
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    nbytes = math.prod(stored) * dtype.itemsize
    _check_claim(offset + nbytes, path, ratio=DEFLATE_RATIO if path.name.lower().endswith(".gz") else 1)
    slope, inter = header.get_slope_inter()
    scaled = slope is not None and (slope, inter) != (1, 0)
    if scaled and kind == "label":
        raise InputError(
            f"scales its labels by {slope} and adds {inter} (scl_slope, scl_inter)",
            remedy="store the labels as integers with scl_slope 1 and scl_inter 0",
        )

    def load() -> np.ndarray:
        with _inflated(path) as stream:
            stream.read(offset)
            voxels = stream.read(nbytes)
            while stream.read(1 << 20):  # to the very end, where gzip keeps its checksum
                pass
        if len(voxels) < nbytes:
            raise InputError(f"is truncated: {len(voxels)} of {nbytes} bytes of voxels", remedy=RESTORE)
        array = np.frombuffer(voxels, dtype).reshape((*shape, channels), order="F")
        return np.moveaxis(apply_read_scaling(array, slope, inter) if scaled else array, -1, 0)

    return VolumeHeader(path, "NIfTI", shape, channels, dtype, _nifti_affine(header), min(len(stored), 3)), load


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


# MetaImage and NRRD


def _open_itk(path: Path, spatial_dims: int, kind: Kind) -> _Opened:
    name = "NRRD" if suffix_of(path) == ".nrrd" else "MetaImage"
    data_file, offset, deflated = _voxel_bytes(path, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if name == "NRRD" else "MetaImageIO")
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) > 3:
        raise InputError(f"has {len(size)} axes", remedy="store channels as the components of a 2D or 3D image")
    shape, channels = _split_axes(size, (components,), spatial_dims)
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    words = re.fullmatch(r"(?:vector of )?(\d+)-bit (signed integer|unsigned integer|float)", pixel)
    if not words:
        raise InputError(f"holds voxels of type '{pixel}'", remedy="convert them to whole or real numbers")
    dtype = np.dtype({"s": "i", "u": "u", "f": "f"}[words[2][0]] + str(int(words[1]) // 8))
    nbytes = math.prod(size) * components * dtype.itemsize
    _check_claim(nbytes, data_file, offset, DEFLATE_RATIO if deflated else 1)

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


# TIFF


def _open_tiff(path: Path, spatial_dims: int, kind: Kind) -> _Opened:
    page_count = _count_pages(path)
    with tifffile.TiffFile(path) as tiff:
        if len(tiff.series) != 1:
            raise InputError(f"holds {len(tiff.series)} images of different size", remedy="keep one of them per file")
        _check_segments(path, tiff, page_count)
        page, axes, stored = tiff.pages.first, tiff.series[0].axes, tiff.series[0].shape
        dtype = np.dtype("u1") if tiff.series[0].dtype.kind == "b" else tiff.series[0].dtype
    _check_page(page, kind)
    colour, pages = _tiff_axes(axes, stored, spatial_dims)
    order = [*colour, *pages, axes.index("Y"), axes.index("X")]
    shape, channels = tuple(stored[i] for i in order[len(colour) :]), stored[colour[0]] if colour else 1
    alpha = "S" in axes and any(sample in (1, 2) for sample in page.extrasamples)

    def load() -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            array = tiff.series[0].asarray().reshape(stored)
        array = array.transpose([i for i in range(len(stored)) if i not in order] + order).reshape(channels, *shape)
        return _without_alpha(array) if alpha else array.astype(dtype, copy=False)

    return VolumeHeader(path, "TIFF", shape, channels - alpha, dtype, np.eye(4), spatial_dims), load


def _tiff_axes(axes: str, stored: tuple[int, ...], spatial_dims: int) -> tuple[list[int], list[int]]:
    """Tell which axis holds the colours and which the pages, if any: ([3], [0]) for "ZYXS" in 3D."""
    colour = [i for i, letter in enumerate(axes) if letter in "SC" and stored[i] > 1]
    pages = [i for i, letter in enumerate(axes) if letter not in "SCYX"]
    if spatial_dims == 3 and not pages:  # a stack that was saved as channels
        pages, colour = [i for i in colour if axes[i] == "C"], [i for i in colour if axes[i] == "S"]
    if spatial_dims == 3 and not pages:
        raise InputError("holds one page; this bundle takes 3D volumes", remedy="stack the pages, or use a 2D bundle")
    several = [i for i in pages if stored[i] > 1]
    if spatial_dims == 2 and several:
        raise InputError(
            f"holds {math.prod(stored[i] for i in several)} pages; this bundle takes 2D images",
            remedy="split the pages into one file each, or use a 3D bundle, which takes them as its first axis",
        )
    if len(several) > 1 or len(colour) > 1:
        raise InputError(f"has the axes {axes} of {stored}", remedy="save one stack of pages per file")
    return colour, (several or pages[:1]) if spatial_dims == 3 else []


def _check_page(page: tifffile.TiffPage, kind: Kind) -> None:
    if page.photometric not in ((1, 2, 3) if kind == "label" else (1, 2)):  # black is zero, RGB, palette
        raise InputError(
            f"has {tifffile.PHOTOMETRIC(page.photometric).name} colours",
            remedy="save it as greyscale with black as 0, or as RGB; a label map may have a palette",
        )
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise InputError(
            f"is compressed by {tifffile.COMPRESSION(page.compression).name}, which needs the package imagecodecs",
            remedy="install it (pip install imagecodecs), or save the file without compression",
        )
    turned = page.tags.get(274)
    _check_upright(turned.value if turned else 1)


def _check_segments(path: Path, tiff: tifffile.TiffFile, page_count: int) -> None:
    """Raise unless every page is there, and every strip or tile lies within the file: tifffile fills gaps with 0."""
    page, series = tiff.pages.first, tiff.series[0]
    ratio = {1: 1, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO}.get(page.compression, 1 << 16)
    _check_claim(series.size * page.bitspersample // 8, path, ratio=ratio)
    segments = [pair for p in tiff.pages for pair in zip(p.dataoffsets, p.databytecounts, strict=True)]
    whole = all(0 < start < start + n <= tiff.filehandle.size for start, n in segments)
    one_block = page_count == 1 and series.size % page.size == 0  # ImageJ describes a large stack by its first page
    if not whole or page_count != len(tiff.pages) or not (one_block or series.size == page_count * page.size):
        raise InputError(f"is truncated or lacks pages: {page_count} pages for shape {series.shape}", remedy=RESTORE)


def _count_pages(path: Path) -> int:
    """Follow the chain of pages to its end, because tifffile only logs it when the chain breaks."""
    with path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}[head[:2]]
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        count, entry, pointer = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
        (offset,) = struct.unpack(pointer, head[8:16] if big else head[4:8])
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise InputError("is damaged: its pages form a circle", remedy=RESTORE)
            seen.add(offset)
            stream.seek(offset)
            (entries,) = struct.unpack(count, stream.read(struct.calcsize(count)))
            stream.seek(entries * entry, 1)
            (offset,) = struct.unpack(pointer, stream.read(struct.calcsize(pointer)))
    return len(seen)


# PNG, JPEG and BMP

_PILLOW = {
    ".png": ("PNG", PngImagePlugin.PngImageFile),
    ".jpg": ("JPEG", JpegImagePlugin.JpegImageFile),
    ".jpeg": ("JPEG", JpegImagePlugin.JpegImageFile),
    ".bmp": ("BMP", BmpImagePlugin.BmpImageFile),
}
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # samples per pixel, alpha included


def _open_pillow(path: Path, spatial_dims: int, kind: Kind) -> _Opened:
    name, plugin = _PILLOW[suffix_of(path)]
    with path.open("rb") as stream:
        image = plugin(stream)
        mode, (width, height), info = image.mode, image.size, image.info
        stream.seek(24)
        depth, colour_type = stream.read(2) if name == "PNG" else (8, 0)
    _check_pixels(name, mode, kind, deep_colour=depth == 16 and colour_type != 0, transparent="transparency" in info)
    shape, _ = _split_axes((height, width), (1,), spatial_dims)
    _check_claim(width * height * _MODES[mode] * depth // 8, path, ratio=DEFLATE_RATIO)
    alpha = mode in ("LA", "RGBA")

    def load() -> np.ndarray:
        with path.open("rb") as stream:
            plugin(stream).verify()  # the checksum of every PNG chunk, which loading skips
            stream.seek(0)
            image = plugin(stream)
            image.load()
            _check_upright(image.getexif().get(274, 1))
            if getattr(image, "n_frames", 1) > 1:
                raise InputError("holds several frames", remedy="save one frame per file")
            array = np.asarray(image)
        if mode in ("1", "L") and name == "PNG" and depth < 8:  # Pillow spreads 2 bits over 0, 85, 170, 255
            array = array.astype(np.uint8) // (255 // (2**depth - 1) if mode == "L" else 1)
        array = np.atleast_3d(array.astype(np.uint8) if mode == "1" else array).transpose(2, 0, 1)
        return _without_alpha(array) if alpha else array

    dtype = np.dtype(np.uint16 if mode == "I;16" else np.uint8)
    return VolumeHeader(path, name, shape, _MODES[mode] - alpha, dtype, np.eye(4), 2), load


def _check_pixels(name: str, mode: str, kind: Kind, deep_colour: bool, transparent: bool) -> None:
    if name == "JPEG" and kind == "label":
        raise InputError("JPEG changes label values at every border", remedy="export the labels again as PNG or TIFF")
    if mode not in _MODES:
        raise InputError(f"has pixels of mode {mode}", remedy="save it as greyscale or RGB")
    if deep_colour:
        raise InputError("has 16 bits per colour, of which 8 would be lost", remedy="save it as 16-bit TIFF")
    if mode == "P" and kind == "image":
        raise InputError("has a palette, so its values are no grey values", remedy="convert it to greyscale or RGB")
    if transparent and mode != "P":
        raise InputError("marks one colour as transparent", remedy="save it without transparency")


def _check_upright(orientation: int) -> None:
    if orientation != 1:
        raise InputError(
            f"is stored turned (orientation tag {orientation}), which viewers undo and label maps may not know",
            remedy="turn the pixels themselves and remove the tag",
        )


def _without_alpha(array: np.ndarray) -> np.ndarray:
    opaque = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    if (array[-1] != opaque).any():
        raise InputError("has transparent pixels", remedy="save it without an alpha channel")
    return array[:-1]


_FORMATS: dict[str, Callable[[Path, int, Kind], _Opened]] = {
    ".nii": _open_nifti,
    ".nii.gz": _open_nifti,
    ".mha": _open_itk,
    ".mhd": _open_itk,
    ".nrrd": _open_itk,
    ".tif": _open_tiff,
    ".tiff": _open_tiff,
    **dict.fromkeys(_PILLOW, _open_pillow),
}

SUFFIXES = tuple(_FORMATS)  # of every file that can be read, in lower case
