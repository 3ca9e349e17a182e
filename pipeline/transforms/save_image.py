"""Saving of predictions: one whole output file per case, in the format and geometry of its input."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from monai.utils import ImageMetaKey, MetaKeys

from pipeline.errors import InputError
from pipeline.volumes.atomic import LONGEST_NAME
from pipeline.volumes.reading import files_of, reads_as_dicom, suffix_of
from pipeline.volumes.writing import write_label_map, write_volume

READ_ONLY = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}  # lossy or dated formats, and what is written instead


class AtomicSaveImaged(SaveImaged):
    """Write `data[key]` of shape (channels, *spatial) to `output_dir/<id><postfix><suffix>`.

    The suffix is that of the input's format: the case "a/x" of x.nii.gz becomes ``a/x<postfix>.nii.gz``. DICOM becomes
    ``.nii.gz``, JPEG and BMP ``.png``, and the probabilities of such pictures ``.tif``.

    Args:
        keys: keys to save; the input file is named by the meta data of `data[key]`, else of `data["image"]`.
        output_dir: folder to write to; missing folders are made.
        postfix: put between the case's id and the suffix, such as "_seg".
        kind: "labels" demands one channel of whole numbers; "probabilities" writes all channels as float32.
        allow_missing_keys: skip a key that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | PathLike[str],
        postfix: str = "",
        kind: Literal["labels", "probabilities"] = "labels",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if kind not in ("labels", "probabilities"):
            raise ValueError(f"kind must be 'labels' or 'probabilities', got {kind!r}")
        self.output_dir, self.postfix, self.kind = Path(output_dir), postfix, kind

    def output_file(self, case: str, source: Path) -> Path:
        """Return where the result for the input `source` is written."""
        suffix = ".nii.gz" if reads_as_dicom(source) else suffix_of(source)
        suffix = READ_ONLY.get(suffix, suffix)
        if self.kind == "probabilities" and suffix == ".png":
            suffix = ".tif"  # PNG holds whole numbers only
        output = output_of(self.output_dir, case, self.postfix + suffix)
        if output.resolve() == source.resolve():
            remedy = "change output_dir or postfix"
            raise InputError("would be overwritten by its own result", case=case, file=source, remedy=remedy)
        return output

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save each key, and add the files that were written to `data["outputs"]`."""
        record = dict(data)
        for key in self.key_iterator(record):
            case = case_of(record)
            source = source_of(record, key)
            output = self.output_file(case, source)
            tensor = torch.as_tensor(record[key]).detach().cpu()
            if self.kind == "labels":
                write_label_map(output, _only_channel(tensor.numpy(), output, case), like=source, case=case)
            else:
                write_volume(output, tensor.float().numpy(), like=source, case=case)
            record["outputs"] = [*record.get("outputs", []), *files_of(output, tensor.ndim - 1)]
            if hasattr(record[key], "meta"):
                record[key].meta[MetaKeys.SAVED_TO] = str(output)
        return record


def case_of(record: Mapping[Hashable, Any]) -> str:
    """Return the case's id, which names its outputs."""
    if not record.get("id"):
        raise InputError("the record has no 'id' to name its outputs by", remedy="give each record an id")
    return str(record["id"])


def output_of(output_dir: Path, case: str, ending: str) -> Path:
    """Return `output_dir/<case><ending>`, such as ``out/patient/1.2.scan_prob.nii.gz``.

    Dots in the id are part of it; the folders that it names lie below the output folder, or it is an error.
    """
    place = PurePath(case)
    if place.is_absolute() or not place.name or ".." in place.parts:
        raise InputError(f"its id leads out of the output folder '{output_dir}'", case=case, remedy="change the id")
    if (length := len(os.fsencode(place.name + ending))) > LONGEST_NAME:
        reason = f"its result '{place.name}{ending}' would have a name of {length} bytes, disks take {LONGEST_NAME}"
        raise InputError(reason, case=case, remedy="rename the input to something shorter")
    return output_dir / place.with_name(place.name + ending)


def source_of(record: Mapping[Hashable, Any], key: Hashable = "pred") -> Path:
    """Return the input file that `record[key]` belongs to, or the first of its channels."""
    for holder in (key, "image"):
        file = getattr(record.get(holder), "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ)
        if file:
            return Path(file)
    raise InputError(
        f"neither '{key}' nor 'image' carries the name of its input file (meta['filename_or_obj'])",
        case=None if record.get("id") is None else str(record["id"]),
        remedy="load with StrictLoadImaged, and keep the meta data up to here",
    )


def _only_channel(array: np.ndarray, output: Path, case: str) -> np.ndarray:
    if len(array) != 1:
        raise InputError(
            f"a label map needs one channel, got shape {array.shape}",
            case=case,
            file=output,
            remedy="take the argmax before saving, or save kind 'probabilities'",
        )
    return array[0]
