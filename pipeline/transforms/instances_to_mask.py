"""Instance ids to a binary mask in which touching cells are separated by a line of background."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy
from scipy import ndimage

from pipeline.errors import InputError


def separate_instances(instances: np.ndarray, gap: int = 1) -> np.ndarray:
    """Return the ids with at least `gap` background pixels between every two instances, diagonals included.

    Of two that are nearer, the one with more pixels gives way (of equal ones, the larger id): the line lies on one
    side only, so it is no wider than needed, and a small cell is not eaten up by a large neighbour.

    Args:
        instances: integer ids, 0 is background; 2D or 3D.
        gap: width of the line in pixels; 0 changes nothing.
    """
    ids, dense, sizes = np.unique(instances, return_inverse=True, return_counts=True)
    if gap == 0 or len(ids) < 2:
        return instances.copy()
    sizes = np.where(ids == 0, instances.size + 1, sizes)  # the background never makes anyone give way
    rank = np.empty(len(ids), np.int32)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(ids))
    ranks = rank[dense].reshape(instances.shape)
    gives_way = ndimage.minimum_filter(ranks, size=2 * gap + 1) < ranks
    return np.where(gives_way, 0, instances).astype(instances.dtype, copy=False)


class InstancesToMaskd(MapTransform):
    """Replace instance ids (C, *spatial) by a uint8 mask of 0 and 1 with a gap between touching instances.

    Args:
        keys: instance ids; tensors and MetaTensors keep their type and meta data.
        gap: background pixels between two instances; 0 is the plain mask.
    """

    def __init__(
        self,
        keys: KeysCollection,
        gap: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if gap < 0:
            raise InputError(f"gap is {gap}", remedy="use 0 or a positive number of pixels")
        self.gap = gap

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks in place of ids."""
        result = dict(data)
        for key in self.key_iterator(result):
            ids = np.stack([separate_instances(channel, self.gap) for channel in convert_to_numpy(data[key])])
            result[key], *_ = convert_to_dst_type(ids != 0, data[key], dtype=np.uint8)
        return result
