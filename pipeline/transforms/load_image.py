"""Loading for MONAI pipelines in which damaged, ambiguous or mismatched files stop with a named error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple

from pipeline.errors import InputError
from pipeline.volumes.header import Kind, Volume
from pipeline.volumes.reading import read_volume
from pipeline.volumes.same_grid import grid_difference


class StrictLoadImaged(MapTransform):
    """Replace file names by channel-first `MetaTensor`s, read by `pipeline.volumes.reading.read_volume`.

    Images become float32, label maps int32 (int64 where an id needs it), without a detour over floats. A list of files
    becomes the channels of one image. Deterministic, so it can be cached. It is no `LoadImaged`: in the place of one,
    MONAI Label puts its own, which asks for all keys, and so for a label where there is none.

    Args:
        keys: keys of the file names.
        spatial_dims: 2 or 3; a file of the other kind is an error.
        label_keys: those of `keys` that hold label maps.
        allow_missing_keys: skip a key that a record lacks, such as the label at inference.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int,
        label_keys: KeysCollection = ("label",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.label_keys = ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load `data[key]` for each key; `data["id"]`, where given, names the case in errors."""
        record = dict(data)
        case = None if record.get("id") is None else str(record["id"])
        for key in self.key_iterator(record):
            kind: Kind = "label" if key in self.label_keys else "image"
            volumes = [read_volume(file, self.spatial_dims, case, kind) for file in _files(record[key])]
            _check_same_grid(volumes, case)
            record[key] = _meta_tensor(volumes, kind, case)
        return record


def _files(value: str | PathLike[str] | list[str | PathLike[str]]) -> list[str | PathLike[str]]:
    return [value] if isinstance(value, str | PathLike) else list(value)


def _check_same_grid(volumes: list[Volume], case: str | None) -> None:
    first = volumes[0]
    for other in volumes[1:]:
        if difference := grid_difference(first, other):
            raise InputError(
                f"lies on another grid than '{first.file}', whose channels it joins, by its {difference}: "
                f"shape {other.shape} and {first.shape}, spacing {other.spacing} and {first.spacing}",
                case=case,
                file=other.file,
                remedy="register and resample the files to one grid",
            )


def _meta_tensor(volumes: list[Volume], kind: Kind, case: str | None) -> MetaTensor:
    first = volumes[0]
    array = first.array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
    if kind == "label":
        if len(array) > 1:
            raise InputError("a label map has one file", case=case, file=first.file, remedy="merge the label maps")
        tensor = torch.from_numpy(_narrowed(array, first, case))
    else:
        tensor = torch.from_numpy(_as_float32(array, first, case))
    affine = torch.from_numpy(first.affine)
    meta = {
        ImageMetaKey.FILENAME_OR_OBJ: str(first.file),
        MetaKeys.ORIGINAL_AFFINE: affine.clone(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(first.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        MetaKeys.SPACE: SpaceKeys.RAS,
    }
    return MetaTensor(tensor, affine=affine, meta=meta)


def _as_float32(array: np.ndarray, volume: Volume, case: str | None) -> np.ndarray:
    if array.dtype == np.float64 and np.abs(array).max() > np.finfo(np.float32).max:
        raise InputError(
            f"intensities up to {np.abs(array).max():g} are beyond the range of float32",
            case=case,
            file=volume.file,
            remedy="replace the outliers, or scale the image",
        )
    return array.astype(np.float32, copy=False)


def _narrowed(labels: np.ndarray, volume: Volume, case: str | None) -> np.ndarray:
    highest, lowest = int(labels.max()), int(labels.min())
    if highest > np.iinfo(np.int64).max:
        raise InputError(f"label {highest} exceeds 2^63", case=case, file=volume.file, remedy="renumber the instances")
    fits = np.iinfo(np.int32).min <= lowest and highest <= np.iinfo(np.int32).max
    return labels.astype(np.int32 if fits else np.int64, copy=False)
