"""The intensities of what is to be found, over all training cases: what a normalisation of CT is made from."""

from __future__ import annotations

from os import PathLike

import numpy as np

from pipeline.datalists.datalist import DataList
from pipeline.errors import InputError
from pipeline.volumes.reading import read_volume

MOST_VOXELS = 100_000  # of a case, so that a large organ counts no more than many small ones do


def foreground_intensities(
    data_list: DataList, dataset_dir: str | PathLike[str], fold: int = 0, lower: float = 0.5, upper: float = 99.5
) -> dict[str, float]:
    """Return the percentiles `low` and `high`, the `mean` and the `std` of the voxels that are not background.

    They are those of the training cases, all channels together, and in the files' own units, such as HU. Of a case
    with more than 100,000 such voxels every n-th counts. nnU-Net normalises CT by the same four numbers (Isensee et al.
    2021, https://doi.org/10.1038/s41592-020-01008-z).

    Args:
        data_list: the list of cases.
        dataset_dir: the folder that the list's paths are relative to.
        fold: which fold validates; the others train.
        lower: percentile of `low`, 0..100.
        upper: percentile of `high`, 0..100.
    """
    found = []
    for record in data_list.records(dataset_dir, "training", fold):
        inside = read_volume(record["label"], data_list.spatial_dims, record["id"], "label").array[0] != 0
        files = [record["image"]] if isinstance(record["image"], str) else record["image"]
        channels = [channel for file in files for channel in read_volume(file, data_list.spatial_dims).array]
        values = np.concatenate([channel[inside] for channel in channels]).astype(np.float64)
        found.append(values[:: len(values) // MOST_VOXELS + 1])
    pooled = np.concatenate(found)
    if pooled.size == 0 or pooled.min() == pooled.max():
        reason = f"the foreground of the training cases has {'one intensity' if pooled.size else 'no voxel'}"
        raise InputError(reason, remedy="correct the labels, or normalise each image by itself")
    low, high = np.percentile(pooled, (lower, upper)).tolist()
    return {"low": low, "high": high, "mean": float(pooled.mean()), "std": float(pooled.std())}
