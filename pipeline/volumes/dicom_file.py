"""What the header of one DICOM file says, and whether the file is whole."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, RLELossless

from pipeline.errors import InputError
from pipeline.volumes.dicom_geometry import Placed, are_right_angles
from pipeline.volumes.header import BOUNDLESS_RATIO, JPEG_RATIO, RESTORE, check_claim

CONVERT = "convert it to NIfTI, for example with dcm2niix"
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID"),
    *("ImageType", "EchoTime", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"),
    *("PixelSpacing", "ImagerPixelSpacing", "SpacingBetweenSlices", "SliceThickness", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation", "ModalityLUTSequence"),
    *("BitsStored", "HighBit", "RescaleSlope", "RescaleIntercept"),
    "PixelData",
]
PACKED_RATIOS = {
    RLELossless: 64,
    JPEGBaseline8Bit: JPEG_RATIO,
    JPEGExtended12Bit: JPEG_RATIO,
    JPEGLossless: 32,  # at least a bit for each pixel
    JPEGLosslessSV1: 32,
}  # of others a black picture takes as good as nothing
DEFLATED_LIMIT = 1 << 26  # bytes of a deflated file, header and pixels, that are unpacked
_DEFERRED = 1024  # bytes from which a value is left in its file
_UNREAD = np.dtype(np.uint8)  # of a file with a problem


@dataclass(frozen=True, eq=False)
class DicomFile(Placed):
    """What the header of one DICOM file says.

    Args:
        holds: name of its SOP class, such as "CT Image Storage"; empty where the header is too damaged to tell.
        series: SeriesInstanceUID; empty where the header is too damaged to tell.
        description: SeriesDescription.
        instance: SOPInstanceUID.
        variant: what sets images at one place apart within a series: image type and echo time.
        measured: whether `spacing` is that in the patient, and not at the detector, or unknown and 1.
        dtype: of the pixels as stored, before the rescale slope and intercept.
        syntax: name of the transfer syntax, which is the compression.
        white_is_zero: whether it shows 0 as white, as on film (MONOCHROME1).
        problem: why the file cannot be part of a volume.
    """

    holds: str = ""
    series: str = ""
    description: str = ""
    instance: str = ""
    variant: tuple[str, ...] = ()
    measured: bool = True
    dtype: np.dtype = _UNREAD
    syntax: str = ""
    white_is_zero: bool = False
    problem: InputError | None = None

    @property
    def is_image(self) -> bool:
        """Whether the standard calls the object an image, which a report or a segmentation is not."""
        return "Image Storage" in self.holds

    def check(self) -> None:
        """Raise the problem, if there is one: anew, for a raised error would hold on to everything around it."""
        if self.problem is not None:
            raise InputError(self.problem.reason, file=self.path, remedy=self.problem.remedy)


def is_dicom(file: str | os.PathLike[str]) -> bool:
    """Tell by the four letters that follow the first 128 bytes of a DICOM file, whatever its name is."""
    with open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def no_dicom_file(path: Path) -> DicomFile:
    """Return what stands for a file that lacks the DICOM letters though it should have them."""
    reason = "is not a DICOM file, or its start is damaged: the letters DICM are missing"
    return DicomFile(path, problem=InputError(reason, file=path, remedy=RESTORE))


def read_dicom_file(path: Path) -> DicomFile:
    """Read the header of a DICOM file; what is wrong with it becomes its `problem`."""
    file = DicomFile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of a damaged or odd header is looked at below
            header = _read(path)
            file = _identify(file, header)
            return _describe(file, header)
    except InputError as error:
        return replace(file, problem=InputError(error.reason, file=path, remedy=error.remedy))
    except Exception as error:  # whatever damage makes pydicom raise
        reason = f"its header cannot be read ({type(error).__name__}: {error})"
        return replace(file, problem=InputError(reason, file=path, remedy=RESTORE))


class _EndlessReadError(Exception):
    """That all the rest of a file was asked for."""


class _Piecewise(io.BufferedReader):
    """A file that is read in pieces alone: of a deflated one pydicom unpacks all, whatever memory that takes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes; all that are left raises."""
        if size is None or size < 0:
            raise _EndlessReadError
        return super().read(size)


def _read(path: Path) -> FileDataset:
    with _Piecewise(io.FileIO(str(path))) as stream:
        try:
            return pydicom.dcmread(stream, defer_size=_DEFERRED, specific_tags=_TAGS)
        except _EndlessReadError:  # behind the part that is never deflated
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            content = inflater.decompress(stream.read(2 * DEFLATED_LIMIT), DEFLATED_LIMIT)
    if inflater.unconsumed_tail:
        remedy = "unpack it, for example with dcmtk's dcmconv +te"
        raise InputError(f"is deflated, and unpacks to more than {DEFLATED_LIMIT} bytes", remedy=remedy)
    if not inflater.eof:
        raise InputError("is truncated: its deflated part has no end", remedy=RESTORE)
    dataset = read_dataset(io.BytesIO(content), False, True, specific_tags=list(map(Tag, _TAGS)))
    return FileDataset(str(path), dataset, file_meta=read_file_meta_info(path), is_implicit_VR=False)


def _identify(file: DicomFile, header: FileDataset) -> DicomFile:
    stated = header.file_meta.get("MediaStorageSOPClassUID")
    holds = header.get("SOPClassUID", stated)
    named = replace(file, holds=holds.name if holds else "", description=str(header.get("SeriesDescription", "")))
    changed = bool(stated) and ("Image Storage" in stated.name) != named.is_image
    if changed or (named.is_image and "PixelData" not in header):
        return named  # damaged, or cut off before the pixels: the number of its series may be so as well
    return replace(named, series=str(header.get("SeriesInstanceUID", "")))


def _describe(file: DicomFile, header: FileDataset) -> DicomFile:
    if not file.holds or not file.series:
        raise InputError("is truncated or damaged: it has no SOP class, or two, no series or no pixels", remedy=RESTORE)
    if not file.is_image:
        raise InputError(f"holds no image but {file.holds}", remedy="name the files of an image series")
    _check_kind(header, file.holds)
    _check_whole(file.path, header)
    spacing = _spacing(header)
    depth = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
    position, orientation = (header.get(f"Image{word}Patient") for word in ("Position", "Orientation"))
    if not np.isfinite([depth or 0, *(position or ()), *(orientation or ())]).all():
        raise InputError("has a place or a spacing that is not finite", remedy=RESTORE)
    if orientation and not are_right_angles(np.reshape(np.array(orientation, float), (2, 3))):
        raise InputError(f"has directions that are no unit vectors at right angles: {orientation}", remedy=RESTORE)
    sort = header.get("ImageType") or ()
    return replace(
        file,
        rows=header.Rows,
        columns=header.Columns,
        spacing=spacing,
        measured=header.get("PixelSpacing") not in (None, ""),
        depth=abs(float(depth)) if depth else None,
        position=np.array(position, float) if position and orientation else None,
        orientation=np.array(orientation, float).reshape(2, 3) if position and orientation else None,
        frame=str(header.get("FrameOfReferenceUID", "")),
        instance=str(header.get("SOPInstanceUID", "")),
        variant=(str(header.get("EchoTime")), *([sort] if isinstance(sort, str) else map(str, sort))),
        dtype=np.dtype(f"{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}"),
        syntax=header.file_meta.TransferSyntaxUID.name,
        white_is_zero=header.get("PhotometricInterpretation") == "MONOCHROME1",
    )


def _spacing(header: FileDataset) -> tuple[float, float]:
    """Return the distances between rows and between columns; at the detector or 1 where those in the patient lack."""
    named = (header.get(name) for name in ("PixelSpacing", "ImagerPixelSpacing"))
    given = next((value for value in named if value not in (None, "")), (1, 1))
    found = tuple(map(float, np.atleast_1d(np.array(given, float))))
    if not np.isfinite(found).all():
        raise InputError("has a place or a spacing that is not finite", remedy=RESTORE)
    if len(found) != 2 or min(found) <= 0:
        raise InputError(f"has a spacing of pixels that is not two positive numbers: {given}", remedy=RESTORE)
    return found[0], found[1]


def _check_kind(header: FileDataset, holds: str) -> None:
    """Refuse the images that are not one plane of grey values."""
    if header.get("NumberOfFrames") not in (None, 1) or holds.startswith("Enhanced"):
        raise InputError(f"is a multi-frame object ({holds}), which is not read", remedy=CONVERT)
    missing = [tag for tag in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation") if tag not in header]
    if missing:
        raise InputError(f"is truncated or damaged: its header has no {', '.join(missing)}", remedy=RESTORE)
    colours = header.get("PhotometricInterpretation", "MONOCHROME2")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"has pixels of {colours}", remedy="convert it to grey values with 0 as black")
    if header.PixelRepresentation not in (0, 1) or header.get("SamplesPerPixel", 1) != 1:
        raise InputError("is damaged: nobody knows the type of its pixels", remedy=RESTORE)
    if header.BitsAllocated not in (8, 16, 32):
        raise InputError(f"has pixels of {header.BitsAllocated} bits", remedy=CONVERT)
    stored = header.get("BitsStored")
    if stored not in range(1, header.BitsAllocated + 1) or header.get("HighBit", stored - 1) != stored - 1:
        raise InputError("is damaged: nobody knows which bits of its pixels count", remedy=RESTORE)
    scale = [header.get(f"Rescale{word}") or 0 for word in ("Slope", "Intercept")]
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in scale):
        raise InputError("is damaged: its values are scaled by no number", remedy=RESTORE)
    if header.get("ModalityLUTSequence"):
        raise InputError("maps its values by a table (Modality LUT)", remedy="convert it to plain values")


def _check_whole(path: Path, header: FileDataset) -> None:
    """Raise unless all pixels lie within the file, whose end pydicom passes over in silence."""
    syntax = header.file_meta.TransferSyntaxUID
    claimed = header.Rows * header.Columns * header.BitsAllocated // 8
    if syntax.is_compressed:  # these end with a mark, without which no pixels are found
        check_claim(claimed, path, ratio=PACKED_RATIOS.get(syntax, BOUNDLESS_RATIO))
        return
    pixels = cast(RawDataElement, header.get_item("PixelData", keep_deferred=True))
    if syntax.is_deflated:
        held = len(pixels.value or b"")
    else:
        held = min(pixels.length, path.stat().st_size - pixels.value_tell)
    if held < claimed:
        raise InputError(f"is truncated: {held} of {claimed} bytes of pixels", remedy=RESTORE)
