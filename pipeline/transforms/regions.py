"""Regions that overlap, as in BraTS: several labels make a region, and a network has a channel for each region."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep

from pipeline.errors import InputError
from pipeline.transforms.classes_from_logits import label_type

Regions = Mapping[str, Sequence[int]]


def written_labels(regions: Regions) -> list[int]:
    """Return the label that each region writes: the one that it has and no later region has.

    `{"tumour": [1, 2, 3], "core": [1, 3], "enhancing": [3]}` gives [2, 1, 3]. The last region may have several labels
    and writes the smallest: `{"tumour": [1, 2, 3]}` gives [1]. Such a prediction has 1 wherever tumour is, of whichever
    class: right by its regions, and not a map of the three classes.

    Args:
        regions: labels by the region's name, the outermost region first.
    """
    own = []
    for number, (name, labels) in enumerate(regions.items()):
        later = {label for inner in list(regions.values())[number + 1 :] for label in inner}
        left = sorted(set(labels) - later)
        if min(labels, default=1) < 1:
            reason = f"the region '{name}' has the label {min(labels)}, but 0 is the background"
            raise InputError(reason, file="regions", remedy="give a region labels of 1 and above")
        last = number == len(regions) - 1
        if not left or (len(left) > 1 and not last):
            reason = f"the region '{name}' has {left or 'no label'} that no later region has"
            remedy = "order the regions from the outermost in, each with one label more than those after it"
            raise InputError(reason, file="regions", remedy=remedy)
        own.append(left[0])
    if not own:
        raise InputError("there is no region", file="regions", remedy="give labels by name, as {tumour: [1, 2, 3]}")
    return own


class RegionsFromLabelsd(MapTransform):
    """Replace label maps (1, *spatial) by one mask for each region, (regions, *spatial) uint8.

    Args:
        keys: label maps.
        regions: labels by the region's name, the outermost region first.
    """

    def __init__(self, keys: KeysCollection, regions: Regions, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        written_labels(regions)
        self.regions = {name: list(labels) for name, labels in regions.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks in place of label maps."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = torch.as_tensor(data[key])
            masks = [torch.isin(label, label.new_tensor(labels)) for labels in self.regions.values()]
            result[key], *_ = convert_to_dst_type(torch.cat(masks), data[key], dtype=torch.uint8)
        return result


class LabelsFromRegionsd(MapTransform):
    """Replace the logits of regions (regions, *spatial) by a label map (1, *spatial), and keep the probabilities.

    Region by region, from the first to the last, its own label (`written_labels`) is written where its probability is
    above 0.5: where regions overlap, the last one stands.

    Args:
        keys: logits of one image, tensors with or without meta data; that goes along.
        regions: labels by the region's name, the outermost region first.
        probabilities_key: where the sigmoids go, one for each key; None drops them.
    """

    voxelwise = True  # it may be applied to any part of an image

    def __init__(
        self,
        keys: KeysCollection,
        regions: Regions,
        probabilities_key: KeysCollection | None = "probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = written_labels(regions)
        self.probabilities_keys = ensure_tuple_rep(probabilities_key, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with label maps in place of logits."""
        result = dict(data)
        for key, probabilities_key in self.key_iterator(result, self.probabilities_keys):
            logits = data[key].float()
            if len(logits) != len(self.labels):
                reason = f"the network has {len(logits)} channels, but there are {len(self.labels)} regions"
                raise InputError(reason, file="regions", remedy="train with the regions that are to be predicted")
            labels = torch.zeros_like(logits[:1], dtype=label_type(max(self.labels)))
            for region, label in zip(logits, self.labels, strict=True):
                labels[0][region > 0] = label
            result[key] = labels
            if probabilities_key is not None:
                result[probabilities_key] = logits.sigmoid()
        return result
