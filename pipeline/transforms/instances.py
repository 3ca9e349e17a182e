"""Predicted objects, numbered: connected components, or a seeded watershed that parts those which touch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from pipeline.errors import InputError

Mask = NDArray[np.bool_]
SEEDS = ("components", "probability", "distance")


def components(foreground: Mask) -> NDArray[np.int32]:
    """Return the face-connected components of a mask, numbered from 1: cells that touch at a corner are two."""
    return ndimage.label(foreground)[0]


def seeded_watershed(foreground: Mask, seeds: Mask, height: NDArray[np.floating]) -> NDArray[np.int32]:
    """Return a number for each component of the seeds, grown downhill until the foreground is covered.

    Args:
        foreground: mask to cover, 2D or 3D; a component of it without a seed becomes one object.
        seeds: mask; what lies outside the foreground is ignored.
        height: the objects meet where it is lowest.
    """
    objects, markers = components(foreground), components(seeds & foreground)
    seeded = np.zeros(objects.max() + 1, bool)
    seeded[objects[markers > 0]] = True
    alone = foreground & ~seeded[objects]
    markers[alone] = objects[alone] + markers.max()
    return watershed(-height, markers, mask=foreground)


def summits(height: NDArray[np.floating], depth: float) -> Mask:
    """Return the tops from which every way to a higher place leads down by more than `depth` first."""
    return local_maxima(reconstruction(height - depth, height)).astype(bool)


def distance_inside(foreground: Mask, spacing: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Return how far each voxel lies from the background, in edges of a voxel, the shortest where they differ."""
    sizes = np.broadcast_to(np.asarray(spacing, float), foreground.ndim)
    return ndimage.distance_transform_edt(foreground, sizes / sizes.min())


def numbered(instances: NDArray[np.integer], min_size: int = 0) -> NDArray[np.unsignedinteger]:
    """Return the objects of at least `min_size` voxels as 1, 2, ... by their first voxel, in the smallest type."""
    ids, first, dense, sizes = np.unique(instances, return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero((ids != 0) & (sizes >= min_size))
    kept = kept[np.argsort(first[kept])]
    numbers = np.zeros(len(ids), np.min_scalar_type(len(kept)))
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[dense].reshape(instances.shape)


class Instancesd(MapTransform):
    """Number the objects in predicted classes: unsigned integers (1, *spatial), 0 is background.

    Foreground is every class above 0; they are not told apart. Nothing is lost but objects below `min_size`.

    Args:
        keys: predicted classes (1, *spatial), 2D or 3D.
        instances_key: where the numbers go, one for each key.
        seeds: "components" makes each connected component one object; else a watershed parts components that hold
            several seeds. They are the components of P(foreground) > `seed_threshold` ("probability"), or the centres
            of the distance to the background that stand `seed_depth` above the neck between them ("distance").
        probabilities_key: (classes, *spatial), used by "probability": P(foreground) is the only channel of a sigmoid,
            and what the first channel of a softmax leaves.
        seed_threshold: in [0, 1).
        seed_depth: in voxels (of the shortest edge), above 0; the larger, the fewer objects are parted.
        min_size: smaller objects are left out, in voxels.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        instances_key: KeysCollection = "pred_instances",
        seeds: Literal["components", "probability", "distance"] = "components",
        probabilities_key: str = "probabilities",
        seed_threshold: float = 0.9,
        seed_depth: float = 2.0,
        min_size: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if seeds not in SEEDS:
            raise InputError(f"seeds is {seeds!r}", remedy=f"use one of {', '.join(SEEDS)}")
        if not (0 <= seed_threshold < 1 and seed_depth > 0 and min_size >= 0):
            given = f"seed_threshold {seed_threshold}, seed_depth {seed_depth}, min_size {min_size}"
            raise InputError(f"{given} are out of range", remedy="use [0, 1), a number above 0, and 0 or more")
        self.instances_keys = ensure_tuple_rep(instances_key, len(self.keys))
        self.seeds, self.probabilities_key = seeds, probabilities_key
        self.seed_threshold, self.seed_depth, self.min_size = seed_threshold, seed_depth, min_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the numbered objects added; they carry the meta data of their key."""
        result = dict(data)
        for key, instances_key in self.key_iterator(result, self.instances_keys):
            foreground = convert_to_numpy(data[key])[0] > 0
            instances = numbered(self._objects(foreground, data, key), self.min_size)[None]
            result[instances_key], *_ = convert_to_dst_type(instances, data[key], dtype=instances.dtype)
        return result

    def _objects(self, foreground: Mask, data: Mapping[Hashable, Any], key: Hashable) -> NDArray[np.int32]:
        if self.seeds == "components" or not foreground.any():
            return components(foreground)
        if self.seeds == "distance":
            affine = getattr(data[key], "affine", np.eye(foreground.ndim + 1))
            height = distance_inside(foreground, np.linalg.norm(affine[:-1, : foreground.ndim], axis=0))
            return seeded_watershed(foreground, summits(height, self.seed_depth), height)
        probabilities = convert_to_numpy(data[self.probabilities_key])
        height = probabilities[0] if len(probabilities) == 1 else 1 - probabilities[0]
        return seeded_watershed(foreground, height > self.seed_threshold, height)


class LabelInstancesd(MapTransform):
    """Keep the numbered objects of a label, to measure against, before a training mask is made of it.

    Args:
        keys: the label, channel-first (1, *spatial).
        instances_key: where the numbers go, one for each key.
        label_kind: "instances", or "classes": what is not 0 and hangs together by faces is an object.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        instances_key: KeysCollection = "label_instances",
        label_kind: str = "instances",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.instances_keys, self.label_kind = ensure_tuple_rep(instances_key, len(self.keys)), label_kind

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the objects added; they carry the meta data of their key."""
        result = dict(data)
        for key, instances_key in self.key_iterator(result, self.instances_keys):
            label = convert_to_numpy(data[key])
            objects = label.copy() if self.label_kind == "instances" else components(label[0] > 0)[None]
            result[instances_key], *_ = convert_to_dst_type(objects, data[key], dtype=objects.dtype)
        return result
