"""A label map as a DICOM segmentation object, which a viewer shows over the series that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.coding import Code

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

    Args:
        file: where it goes; it appears whole or not at all.
        labels: (x, y, z), class numbers on the grid that `read_volume` gives `source`.
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
    highdicom = _highdicom()
    try:
        files, _ = stack_series(source, 3)
    except InputError as error:
        raise InputError(error.reason, file=error.file or source, remedy=error.remedy) from error
    labels = _checked(labels, (files[0].columns, files[0].rows, len(files)), len(classes), source)
    segments = [Segment(entry) if isinstance(entry, str) else entry for entry in classes[1:]]
    method = highdicom.AlgorithmIdentificationSequence(algorithm, Code(*NETWORK), pipeline.__version__)
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, segment.name, Code(*segment.category), Code(*segment.property_type), "AUTOMATIC", method
        )
        for number, segment in enumerate(segments, 1)
    ]
    headers = [pydicom.dcmread(entry.path, stop_before_pixels=True) for entry in files]
    try:
        return highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=labels.T,  # (z, y, x): slices, rows, columns
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=1000,
            sop_instance_uid=highdicom.UID(),
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


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        remedy = "pip install 'unet-pipeline[dicom]', or write NIfTI"
        raise InputError(
            "DICOM segmentations are written by highdicom, which is not installed", remedy=remedy
        ) from error
    return highdicom
