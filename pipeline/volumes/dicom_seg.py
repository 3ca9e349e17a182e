"""A label map as a DICOM segmentation object, which a viewer shows over the series that it was made from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

import pipeline
from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_path
from pipeline.volumes.dicom import stack_series
from pipeline.volumes.voxels import as_labels

TISSUE = ("85756007", "SCT", "Tissue")  # SNOMED CT; says no more than that it is part of the body
NETWORK = ("123110", "DCM", "Artificial Intelligence")


@dataclass(frozen=True)
class Segment:
    """How a class is described in a segmentation object.

    Args:
        name: shown by viewers.
        category: (value, scheme, meaning) of the code for its kind, such as an anatomical structure.
        property_type: the code for what it is, such as `("10200004", "SCT", "Liver")`.
    """

    name: str
    category: tuple[str, str, str] = TISSUE
    property_type: tuple[str, str, str] = TISSUE


def write_dicom_seg(
    file: str | PathLike[str],
    labels: np.ndarray,
    source: str | PathLike[str],
    classes: Sequence[str | Segment],
    algorithm: str = "U-Net",
    case: str | None = None,
) -> None:
    """Write a label map as a binary DICOM SEG that refers to the slices of its source series.

    The object is named and dated by what it holds, so that equal content gives equal bytes: its UIDs are digests of the
    source's, the labels, the classes and the algorithm, and its date is the newest that the source gives itself.

    Args:
        file: where it goes; it appears whole or not at all.
        labels: (x, y, z), or (row, column) of one image: class numbers on the grid that `read_volume` gives `source`.
        source: a folder that holds one DICOM series, or any file of a series.
        classes: of each number, the background's 0 first; class k becomes segment k, also where no voxel has it.
        algorithm: name of what made the labels; the version of this package is added.
        case: id for error messages.
    """
    try:
        segmentation = _segmentation(np.asarray(labels), source, classes, algorithm)
        with atomic_path(file) as temporary:
            segmentation.save_as(temporary)
    except InputError as error:
        raise InputError(error.reason, case=case, file=error.file or file, remedy=error.remedy) from error


def _segmentation(
    labels: np.ndarray, source: str | PathLike[str], classes: Sequence[str | Segment], algorithm: str
) -> pydicom.Dataset:
    highdicom = require_highdicom()
    flat = labels.ndim == 2
    try:
        files, _ = stack_series(source, 2 if flat else 3)
    except InputError as error:
        raise InputError(error.reason, file=error.file or source, remedy=error.remedy) from error
    rows, columns = files[0].rows, files[0].columns
    labels = _checked(labels, (rows, columns) if flat else (columns, rows, len(files)), len(classes), source)
    segments = [Segment(entry) if isinstance(entry, str) else entry for entry in classes[1:]]
    method = highdicom.AlgorithmIdentificationSequence(algorithm, Code(*NETWORK), pipeline.__version__)
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, segment.name, Code(*segment.category), Code(*segment.property_type), "AUTOMATIC", method
        )
        for number, segment in enumerate(segments, 1)
    ]
    headers = [pydicom.dcmread(entry.path, stop_before_pixels=True) for entry in files]
    described = repr(([entry.instance for entry in files], labels.shape, segments, algorithm, pipeline.__version__))
    uids = _uids(described.encode(), np.ascontiguousarray(labels).data)
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=labels[None] if flat else labels.T,  # (z, y, x): slices, rows, columns
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=next(uids),
            series_number=1000,
            sop_instance_uid=next(uids),
            instance_number=1,
            manufacturer="unet-pipeline",
            manufacturer_model_name=algorithm,
            software_versions=pipeline.__version__,
            device_serial_number="0",
            omit_empty_frames=bool(labels.any()),  # without any frame it would be no image
        )
    except (AttributeError, ValueError) as error:
        reason = f"the series lacks what a segmentation must repeat ({error})"
        raise InputError(reason, file=source, remedy="write the result as NIfTI") from error
    _settle(segmentation, headers, next(uids))
    return segmentation


def _uids(*content: bytes | memoryview) -> Iterator[str]:
    """Yield one UID after another, always the same for the same content."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    number = 0
    while True:
        yield generate_uid(entropy_srcs=[digest.hexdigest(), str(number)])
        number += 1


def _settle(segmentation: pydicom.Dataset, headers: Sequence[pydicom.Dataset], dimensions: str) -> None:
    """Take what is of this minute out of a new object: the times of its making, and the UID of its dimensions."""
    days = [header.get(f"{kind}Date") for header in headers for kind in ("Content", "Acquisition", "Series", "Study")]
    times = [header.get(f"{kind}Time") for header in headers for kind in ("Content", "Acquisition", "Series", "Study")]
    dated = [(str(day), str(time or "000000")) for day, time in zip(days, times, strict=True) if day]
    # An object must have a date; a series whose dates were taken away to hide the patient has none to give.
    segmentation.ContentDate, segmentation.ContentTime = max(dated, default=("19000101", "000000"))
    del segmentation.InstanceCreationDate, segmentation.InstanceCreationTime
    for equipment in segmentation.get("ContributingEquipmentSequence", ()):
        equipment.pop("ContributionDateTime", None)
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions


def _checked(labels: np.ndarray, shape: tuple[int, ...], count: int, source: str | PathLike[str]) -> np.ndarray:
    if labels.shape != shape:
        raise InputError(
            f"has shape {labels.shape}, but the series '{source}' that it belongs to has {shape}",
            remedy="invert the cropping, resampling and padding before the result is written",
        )
    labels = as_labels(labels)
    if labels.min() < 0 or labels.max() >= count:
        raise InputError(
            f"has labels from {labels.min()} to {labels.max()}, where there are {count} classes",
            remedy="name every class, the background first; instances go to NIfTI or TIFF",
        )
    if count < 2:
        raise InputError("has no class beside the background", remedy="name the classes")
    return labels.astype(np.min_scalar_type(count - 1))


def require_highdicom() -> Any:
    """Return the package that writes segmentation objects, which is optional; without it raise with the remedy."""
    try:
        import highdicom
    except ImportError as error:
        remedy = 'pip install "unet-pipeline[dicom]", or write NIfTI alone'
        raise InputError(
            "DICOM segmentations are written by highdicom, which is not installed", remedy=remedy
        ) from error
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells of every module that it copies
    return highdicom
