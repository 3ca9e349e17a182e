"""The U-Net paper's pixel weights: class balance, and emphasis on the narrow gaps between cells."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import log, sqrt
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.transforms.instances_to_mask import separate_instances

NEGLIGIBLE = 1e-6


def border_weight_map(
    instances: np.ndarray, w0: float = 10.0, sigma: float = 5.0, spacing: Sequence[float] | None = None
) -> np.ndarray:
    """Return `w0 * exp(-(d1 + d2)^2 / (2 sigma^2))` on the background, 0 on the cells (Ronneberger 2015, equation 2).

    d1 and d2 are the distances to the nearest and to the second nearest cell; where fewer than two cells are in reach
    the weight is 0. Values below 1e-6 are cut to 0. Cells that touch have no background between them, hence no
    weight: apply `separate_instances` first.

    Args:
        instances: integer ids, 0 is background; 2D or 3D.
        w0: weight of a gap of width 0.
        sigma: fall-off in pixels, or in the unit of `spacing`.
        spacing: size of a pixel per axis; None is 1.

    Returns:
        float32 of the same shape.
    """
    if w0 <= NEGLIGIBLE:
        return np.zeros(instances.shape, np.float32)
    reach = sigma * sqrt(2 * log(w0 / NEGLIGIBLE))  # 28.4 px for the paper's values
    total = _two_nearest(instances, reach, spacing)
    weight = w0 * np.exp(-(total**2) / (2 * sigma**2))
    weight[(total > reach) | (instances != 0)] = 0
    return weight


def _two_nearest(instances: np.ndarray, reach: float, spacing: Sequence[float] | None) -> np.ndarray:
    """Return d1 + d2, exact up to `reach` and infinite or larger than it elsewhere."""
    foreground = instances != 0
    cells = np.zeros(instances.shape, np.int32)
    cells[foreground] = 1 + np.unique(instances[foreground], return_inverse=True)[1]  # 1..n, as find_objects counts
    sizes = tuple(spacing or (1.0,) * instances.ndim)
    margins = [int((reach - min(sizes)) / size) for size in sizes]  # d1 is a pixel or more, so d2 <= reach - 1 px
    d1 = np.full(instances.shape, np.inf, np.float32)
    d2 = d1.copy()
    for cell, box in enumerate(ndimage.find_objects(cells), start=1):
        window = tuple(slice(max(0, axis.start - by), axis.stop + by) for axis, by in zip(box, margins, strict=True))
        distance = ndimage.distance_transform_edt(cells[window] != cell, spacing).astype(np.float32)
        nearest, second = d1[window], d2[window]
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    return d1 + d2


def class_weight_map(instances: np.ndarray, class_weights: str | Sequence[float] | None = "balanced") -> np.ndarray:
    """Return w_c(x) for background and cell, float32 of the shape of `instances`.

    Args:
        instances: ids or a mask; 0 is background.
        class_weights: "balanced" is `pixels / (classes present * pixels of the class)`, whose mean is 1;
            two numbers are the weights of background and cell; None is 1 everywhere.
    """
    cell = instances != 0
    if class_weights is None:
        weights = np.ones(2)
    elif isinstance(class_weights, str):
        counts = np.bincount(cell.ravel(), minlength=2)
        weights = cell.size / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        weights = np.asarray(class_weights)
    return weights.astype(np.float32)[cell.astype(np.intp)]


class BorderWeightd(MapTransform):
    """Write the paper's weight map w(x) = w_c(x) + border term, float32 (1, *spatial), made from instance ids.

    Deterministic: put it before the first random transform and a caching dataset computes it once.

    Args:
        keys: the label, channel-first (1, *spatial).
        weight_key: where the map goes, one for each key.
        w0, sigma, spacing: see `border_weight_map`.
        class_weights: see `class_weight_map`.
        gap: background pixels made between two instances, as `InstancesToMaskd` makes them in the label.
        label_kind: "instances", or "classes": what is not 0 and hangs together by faces is a cell, and no gap is made.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        weight_key: KeysCollection = "weight",
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weights: str | Sequence[float] | None = "balanced",
        spacing: Sequence[float] | None = None,
        gap: int = 0,
        label_kind: str = "instances",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if class_weights not in ("balanced", None) and (isinstance(class_weights, str) or len(class_weights) != 2):
            raise InputError(f"class_weights is {class_weights!r}", remedy="use 'balanced', [background, cell] or None")
        if sigma <= 0:
            raise InputError(f"sigma is {sigma}", remedy="use a positive number of pixels")
        if label_kind not in ("instances", "classes"):
            raise InputError(f"label_kind is {label_kind!r}", remedy="use 'instances' or 'classes'")
        if gap < 0:
            raise InputError(f"gap is {gap}", remedy="use 0 or a positive number of pixels")
        self.gap, self.label_kind = gap, label_kind
        self.weight_keys = ensure_tuple_rep(weight_key, len(self.keys))
        self.w0, self.sigma, self.spacing, self.class_weights = w0, sigma, spacing, class_weights

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the weight map added; it carries the meta data of its key."""
        result = dict(data)
        for key, weight_key in self.key_iterator(result, self.weight_keys):
            instances = self._instances(convert_to_numpy(data[key])[0])
            weight = class_weight_map(instances, self.class_weights)
            weight += border_weight_map(instances, self.w0, self.sigma, self.spacing)
            result[weight_key], *_ = convert_to_dst_type(weight[None], data[key], dtype=np.float32)
        return result

    def _instances(self, label: np.ndarray) -> np.ndarray:
        return ndimage.label(label)[0] if self.label_kind == "classes" else separate_instances(label, self.gap)
