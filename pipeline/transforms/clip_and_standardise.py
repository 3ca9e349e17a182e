"""The normalisation of intensities that mean the same in every image, by numbers that were found once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRange

from pipeline.errors import InputError


class ClipAndStandardised(MapTransform):
    """Clip to `low` and `high`, then take away `mean` and divide by `std`: (clip(x) - mean) / std, of any shape.

    Args:
        keys: images.
        statistics: the four numbers by name, in the images' own units, such as `foreground_intensities` finds them.
        allow_missing_keys: skip a key that the data lacks.
    """

    def __init__(self, keys: KeysCollection, statistics: Mapping[str, float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if missing := [name for name in ("low", "high", "mean", "std") if name not in statistics]:
            raise InputError(f"the statistics lack {', '.join(missing)}", remedy="give low, high, mean and std")
        low, high, mean, std = (float(statistics[name]) for name in ("low", "high", "mean", "std"))
        if not (low < high and std > 0):
            raise InputError(f"low is {low}, high {high} and std {std}", remedy="give a low below high, a std above 0")
        self.scale = ScaleIntensityRange(low, high, (low - mean) / std, (high - mean) / std, clip=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each key's image normalised, as float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.scale(result[key])
        return result
