"""A network's logits to probabilities and class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple_rep
from torch.nn.functional import max_pool2d

IN_CACHE = 2**19  # values whose highest are found at once: 2 MiB
SIDE_BY_SIDE = 1024  # voxels that lie side by side for this; such runs are what the processor's cores share


def label_type(highest: int) -> torch.dtype:
    """Return uint8 for labels up to 255, else int32: torch computes little in wider unsigned types."""
    return torch.uint8 if highest < 256 else torch.int32


def highest_channel(values: torch.Tensor) -> torch.Tensor:
    """Return the channel of each voxel's highest value, (K, *spatial) -> (1, *spatial): the first of equal ones.

    This is `values.max(0, keepdim=True).indices` in the smallest type, and on a CPU several times faster.
    """
    dtype = label_type(max(len(values) - 1, 1))
    if values.device.type != "cpu" or values.ndim < 2 or not values.is_floating_point():
        return values.max(0, keepdim=True).indices.to(dtype)
    result = convert_to_dst_type(torch.empty((1, *values.shape[1:]), dtype=dtype), values, dtype=dtype)[0]
    voxels, labels = convert_to_tensor(values).flatten(1), convert_to_tensor(result).view(-1)
    step = max(IN_CACHE // len(voxels) // SIDE_BY_SIDE, 1) * SIDE_BY_SIDE
    for start in range(0, voxels.shape[1], step):
        part = voxels[:, start : start + step]
        labels[start : start + step] = _highest_channel(part)
    return result


def _highest_channel(voxels: torch.Tensor) -> torch.Tensor:
    """The same of (K, N): PyTorch looks through all channels of many voxels at once when it pools, not in `max`."""
    classes, count = voxels.shape
    run = SIDE_BY_SIDE if count % SIDE_BY_SIDE == 0 else count
    runs = voxels.unflatten(1, (-1, run)).transpose(0, 1).contiguous()  # (N / run, K, run)
    picture = runs.view(-1, classes, 1, run).permute(0, 3, 1, 2)  # voxels are its channels, and classes its height
    return max_pool2d(picture, (classes, 1), return_indices=True)[1].flatten()


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
