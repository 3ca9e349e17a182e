"""A network's logits to probabilities and class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

IN_CACHE = 2**17  # voxels whose labels are found at once: 0.5 MiB of a channel


def label_type(highest: int) -> torch.dtype:
    """Return uint8 for labels up to 255, else int32: torch computes little in wider unsigned types."""
    return torch.uint8 if highest < 256 else torch.int32


def highest_channel(values: torch.Tensor) -> torch.Tensor:
    """Return the channel of each voxel's highest value, (K, *spatial) -> (1, *spatial): the first of equal ones.

    This is `values.max(0, keepdim=True).indices` in the smallest type, and on a CPU several times faster: channels
    are compared one after the other, in pieces that stay in the processor's cache.
    """
    dtype = label_type(max(len(values) - 1, 1))
    if values.device.type != "cpu" or dtype != torch.uint8 or values.ndim < 2:
        return values.max(0, keepdim=True).indices.to(dtype)
    result = convert_to_dst_type(torch.empty((1, *values.shape[1:]), dtype=dtype), values, dtype=dtype)[0]
    plain, labels = convert_to_tensor(values), convert_to_tensor(result)[0]
    rows = max(IN_CACHE // max(plain[0, :1].numel(), 1), 1)
    for start in range(0, plain.shape[1], rows):
        _highest_channel(plain[:, start : start + rows], labels[start : start + rows])
    return result


def _highest_channel(values: torch.Tensor, labels: torch.Tensor) -> None:
    if values.stride(0) == 1 and len(values) > 3:
        values = values.contiguous()
    highest = values[0]
    labels.zero_()
    for channel in range(1, len(values)):
        # 0 or the channel, which is higher than all labels so far; masks would take several times as long.
        above = (values[channel] > highest).view(torch.uint8)
        torch.maximum(labels, above.mul_(channel), out=labels)
        highest = torch.maximum(highest, values[channel])
    if highest.sum().isnan():  # comparing finds no NaN
        labels.copy_(values.max(0).indices)


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

    @property
    def ignores_scale(self) -> bool:
        """Whether logits times a number above 0 of each voxel's own give the same result: classes do."""
        return not any(self.probabilities_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with class indices in place of logits."""
        result = dict(data)
        for key, probabilities_key in self.key_iterator(result, self.probabilities_keys):
            logits = data[key].float()
            single = len(logits) == 1
            result[key] = (logits > 0).to(torch.uint8) if single else highest_channel(logits)
            if probabilities_key is not None:
                result[probabilities_key] = logits.sigmoid() if single else torch.softmax(logits, 0)
        return result
