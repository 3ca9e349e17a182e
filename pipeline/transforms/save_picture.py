"""Saving of a picture for each case, to see at a glance whether a prediction makes sense."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from pipeline import figures
from pipeline.transforms.save_image import case_of, output_of, source_of
from pipeline.volumes.header import Volume
from pipeline.volumes.planes import Plane, fullest_planes
from pipeline.volumes.reading import has_geometry, read_volume
from pipeline.volumes.voxels import count_labels


class SavePictured(MapTransform):
    """Draw class numbers (1, *spatial) over the image that they were made from, into `output_dir/<id>_picture.png`.

    Of a volume the planes across each axis are drawn that hold most foreground. The image is read anew from its file,
    whose grid the classes lie on: the one in the record has been resampled and normalised.

    Args:
        keys: label maps on the grid of their file; its name is in the meta data, as for AtomicSaveImaged.
        output_dir: folder to write to; missing folders are made.
        class_names: name of each class, the background first.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | PathLike[str], class_names: Sequence[str]) -> None:
        super().__init__(keys)
        self.output_dir, self.class_names, self.postfix = Path(output_dir), list(class_names), "_picture"

    def output_file(self, case: str, source: Path) -> Path:
        """Return where the picture of the input `source` is written."""
        return output_of(self.output_dir, case, self.postfix + ".png")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw each key, and add the files that were written to `data["outputs"]`."""
        record = dict(data)
        for key in self.key_iterator(record):
            case = case_of(record)
            labels = torch.as_tensor(record[key]).detach().cpu().numpy()[0]
            source = source_of(record, key)
            volume, output = read_volume(source, labels.ndim, case), self.output_file(case, source)
            planes = planes_of(volume, labels)
            figures.save(figures.picture(case, planes, amounts(volume, labels, self.class_names)), output)
            record["outputs"] = [*record.get("outputs", []), output]
        return record


def planes_of(volume: Volume, labels: np.ndarray) -> list[Plane]:
    """Return what is drawn of an image and the labels (*spatial) on its grid."""
    if volume.shape != labels.shape:
        raise ValueError(f"labels of shape {labels.shape} do not lie on the grid of '{volume.file}', {volume.shape}")
    if labels.ndim == 3:
        return fullest_planes(volume.array[0], labels, volume.affine if has_geometry(volume.file) else None)
    image = volume.array.mean(axis=0) if volume.channels == 3 else volume.array[0]  # colours become grey
    if volume.stored_dims == 3 and volume.format != "DICOM":  # a DICOM image is stored as it is looked at
        return fullest_planes(image[..., None], labels[..., None], volume.affine)
    down, along = volume.spacing
    if has_geometry(volume.file) and volume.format != "DICOM":  # its axes are (x, y)
        image, labels, down, along = image.T, labels.T, along, down
    return [Plane("", image, labels, (down, along))]


def amounts(volume: Volume, labels: np.ndarray, class_names: Sequence[str]) -> dict[int, str]:
    """Return the legend of each label above 0 that there is, such as "liver  1490 ml"."""
    millilitres = np.prod(volume.spacing) / 1000 if labels.ndim == 3 and has_geometry(volume.file) else None
    unit = "pixels" if labels.ndim == 2 else "voxels"
    legend = {}
    for number, count in enumerate(count_labels(labels).tolist()):
        if number and count:
            name = class_names[number] if number < len(class_names) else f"label {number}"
            amount = f"{count:,} {unit}" if millilitres is None else f"{_short(count * millilitres)} ml"
            legend[number] = f"{name}  {amount}"
    return legend


def _short(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
