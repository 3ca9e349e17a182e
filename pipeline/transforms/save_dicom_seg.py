"""Saving of predictions as DICOM segmentation objects, for the cases that came as DICOM."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from pipeline.errors import InputError
from pipeline.transforms.save_image import case_of, output_of, source_of
from pipeline.volumes.dicom_seg import require_highdicom, write_dicom_seg
from pipeline.volumes.reading import reads_as_dicom

SUFFIX = ".seg.dcm"


class SaveDicomSegd(MapTransform):
    """Write class numbers (1, *spatial) to `output_dir/<id>.seg.dcm`, which refers to the series they were made from.

    A case that did not come as DICOM is an error.

    Args:
        keys: label maps on the grid of their file; its name is in the meta data, as for AtomicSaveImaged.
        output_dir: folder to write to; missing folders are made.
        class_names: name of each class, the background first.
        algorithm: name of what made the labels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | PathLike[str],
        class_names: Sequence[str],
        algorithm: str = "U-Net",
    ) -> None:
        super().__init__(keys)
        require_highdicom()  # better now than after the first case
        self.output_dir, self.class_names, self.algorithm = Path(output_dir), list(class_names), algorithm

    def output_file(self, case: str, source: Path) -> Path:
        """Return where the segmentation of the series `source` is written."""
        if not reads_as_dicom(source):
            remedy = "leave out --dicom_seg, or give the series as DICOM"
            raise InputError("is no DICOM series", case=case, file=source, remedy=remedy)
        return output_of(self.output_dir, case, SUFFIX)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save each key, and add the files that were written to `data["outputs"]`."""
        record = dict(data)
        for key in self.key_iterator(record):
            case, source = case_of(record), source_of(record, key)
            output = self.output_file(case, source)
            labels = torch.as_tensor(record[key]).detach().cpu().numpy()[0]
            write_dicom_seg(output, labels, source, self.class_names, self.algorithm, case)
            record["outputs"] = [*record.get("outputs", []), output]
        return record
