"""A network's logits to probabilities and class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep


def label_type(highest: int) -> torch.dtype:
    """Return uint8 for labels up to 255, else int32: torch computes little in wider unsigned types."""
    return torch.uint8 if highest < 256 else torch.int32


class ClassesFromLogitsd(MapTransform):
    """Replace logits (C, *spatial) by class indices (1, *spatial), and keep the probabilities (C, *spatial).

    Several channels are classes that exclude each other: softmax, and the most probable one. A single channel is that
    of the foreground: sigmoid, and class 1 where the probability is above 0.5, which is where the logit is above 0.

    Args:
        keys: logits of one image, tensors with or without meta data; that goes along.
        probabilities_key: where the probabilities go, one for each key; None drops them.
    """

    voxelwise = True  # it may be applied to any part of an image

    def __init__(
        self,
        keys: KeysCollection = "pred",
        probabilities_key: KeysCollection | None = "probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.probabilities_keys = ensure_tuple_rep(probabilities_key, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with class indices in place of logits."""
        result = dict(data)
        for key, probabilities_key in self.key_iterator(result, self.probabilities_keys):
            logits = data[key].float()
            single = len(logits) == 1
            # max is several times faster than argmax, and takes the first of equal ones as well.
            classes = logits > 0 if single else logits.max(0, keepdim=True).indices
            result[key] = classes.to(label_type(max(len(logits) - 1, 1)))
            if probabilities_key is not None:
                result[probabilities_key] = logits.sigmoid() if single else torch.softmax(logits, 0)
        return result
