"""From a file's grid to the one that a network knows, and back: orientation exactly, spacing by interpolation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys, ensure_tuple_rep
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.transforms.resample_planes import PlaneResampler

INTERPOLATION = {
    "linear": {1: "linear", 2: "bilinear", 3: "trilinear"},
    "nearest": dict.fromkeys((1, 2, 3), "nearest-exact"),
}


WRONG_UNIT = 100  # a voxel's edge that many times longer or shorter than the network's is in micrometres or metres


class ToGridd(MapTransform):
    """Turn volumes (C, X, Y, Z) so that their axes point along `axcodes`, and resample them to about `spacing`.

    Turning only permutes and flips voxels. Resampling keeps the field of view: n voxels of size s become
    `round(n s / spacing)`, whose exact size is then `n s / round(n s / spacing)`, and the way back is in place.

    Args:
        keys: `MetaTensor`s as StrictLoadImaged gives them.
        axcodes: where the three axes point, such as "RAS": to the right, to the front, up.
        spacing: mm per axis of the result; None keeps the file's, for all axes or one: (None, None, 3.0).
        mode: "linear" or "nearest" (labels), one for each key.
        allow_missing_keys: skip a key that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        axcodes: str = "RAS",
        spacing: Sequence[float | None] | float | None = None,
        mode: Sequence[str] | str = "linear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.axcodes = axcodes
        if sorted("LPI".find(code) if code in "LPI" else "RAS".find(code) for code in axcodes) != [0, 1, 2]:
            raise InputError(
                f"axcodes is '{axcodes}'", remedy="give one of L R, P A and I S for each axis, as in 'RAS'"
            )
        self.target = nib.orientations.axcodes2ornt(tuple(axcodes))
        self.spacing = ensure_tuple_rep(spacing, 3)
        if any(size is not None and not size > 0 for size in self.spacing):
            raise InputError(f"spacing is {spacing}", remedy="give millimetres above 0, or null to keep an axis")
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if unknown := set(self.mode) - INTERPOLATION.keys():
            raise InputError(f"mode is {sorted(unknown)}", remedy=f"use one of {list(INTERPOLATION)} for each key")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each key on the network's grid; `meta` keeps the file's own grid."""
        result = dict(data)
        for key, mode in self.key_iterator(result, self.mode):
            result[key] = self._convert(result[key], mode)
        return result

    def voxels_of(self, affine: np.ndarray, shape: Sequence[int]) -> int:
        """Return how many voxels a file of this grid will have on the network's."""
        return int(np.prod(self.turned(affine, shape)[1], dtype=np.int64))

    def turned(self, affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return how a file's axes are turned, as nibabel's orientations, and its size on the network's grid."""
        turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), self.target)
        turned_shape = [shape[int(axis)] for axis in np.argsort(turn[:, 0])]
        turned = affine @ nib.orientations.inv_ornt_aff(turn, shape)
        return turn, self._size_on_grid(turned, turned_shape, None)

    def _convert(self, volume: MetaTensor, mode: str) -> MetaTensor:
        affine = np.asarray(volume.affine, dtype=float)
        turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), self.target)
        turned = _turn(volume.as_tensor(), turn)
        affine = affine @ nib.orientations.inv_ornt_aff(turn, volume.shape[1:])
        turned_size = turned.shape[1:]
        size = self._size_on_grid(affine, turned_size, volume.meta.get(ImageMetaKey.FILENAME_OR_OBJ))
        factors = np.divide(turned_size, size)  # old voxels for each new one
        affine = affine @ np.diag([*factors, 1.0]) + _shift(affine, (factors - 1) / 2)
        return _placed(_resize(turned, size, mode), affine, volume.meta)

    def _size_on_grid(self, affine: np.ndarray, shape: Sequence[int], file: str | None) -> tuple[int, ...]:
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        wanted = [edge if size is None else size for edge, size in zip(edges, self.spacing, strict=True)]
        if any(not 1 / WRONG_UNIT < edge / size < WRONG_UNIT for edge, size in zip(edges, wanted, strict=True)):
            found, known = (np.round(lengths, 6).tolist() for lengths in (edges, wanted))
            reason = f"has voxels of {found} mm, where the network knows {known} mm"
            raise InputError(reason, file=file, remedy="correct the unit of the spacing in the header")
        return tuple(max(round(float(n * edge / size)), 1) for n, edge, size in zip(shape, edges, wanted, strict=True))


class FromGridd(MapTransform):
    """Bring what a network said of an image back to the grid of the image's file: the way of ToGridd, backwards.

    Args:
        keys: tensors (C, X, Y, Z) on the network's grid, such as logits or probabilities.
        like: the image that ToGridd has converted, whose `meta` knows the file's grid.
        mode: "linear" or "nearest", one for each key.
        allow_missing_keys: skip a key that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        like: Hashable = "image",
        mode: Sequence[str] | str = "linear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like, self.mode = like, ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each key on the file's grid."""
        result = dict(data)
        image = data[self.like]
        for key, mode in self.key_iterator(result, self.mode):
            tensor = result[key].as_tensor() if isinstance(result[key], MetaTensor) else result[key]
            result[key] = self.placed(PlaneResampler(tensor.shape[1:], self.turned_size(image), mode)(tensor), image)
        return result

    def resampler(self, image: MetaTensor, key: Hashable) -> PlaneResampler:
        """Return what takes a key's planes on the network's grid, and gives those of the file along the same axes."""
        mode = dict(zip(self.keys, self.mode, strict=True)).get(key, "linear")
        return PlaneResampler(image.shape[1:], self.turned_size(image), mode)

    def turned_size(self, image: MetaTensor) -> tuple[int, ...]:
        """Return the voxels of the file along the axes of the network's grid."""
        shape = [int(n) for n in image.meta[MetaKeys.SPATIAL_SHAPE]]
        return tuple(shape[int(axis)] for axis in _way_back(image)[:, 0])

    def placed(self, turned: torch.Tensor, image: MetaTensor) -> MetaTensor:
        """Return voxels of `turned_size` (C, X, Y, Z) along the axes of the file, with its affine."""
        file_affine = np.asarray(image.meta[MetaKeys.ORIGINAL_AFFINE], dtype=float)
        return _placed(_turn(turned, _way_back(image)), file_affine, image.meta)


def _way_back(image: MetaTensor) -> np.ndarray:
    affines = (image.affine, image.meta[MetaKeys.ORIGINAL_AFFINE])
    return nib.orientations.ornt_transform(*(nib.orientations.io_orientation(np.asarray(a, float)) for a in affines))


def described(metadata: Mapping[str, Any], axcodes: str, spacing: Sequence[float | None]) -> dict[str, Any]:
    """Return a bundle's metadata, whose image inputs say the grid that the network expects: `axcodes` and `spacing`."""
    described = deepcopy(dict(metadata))
    for entry in described["network_data_format"]["inputs"].values():
        entry |= {"axcodes": axcodes, "spacing": list(spacing)}
    return described


def _turn(volume: torch.Tensor, turn: np.ndarray) -> torch.Tensor:
    """Permute and flip the spatial axes: row i of `turn` says where axis i goes, and whether it is flipped."""
    flipped = volume.flip([axis + 1 for axis, sign in enumerate(turn[:, 1]) if sign < 0])
    order = np.argsort(turn[:, 0])
    return flipped.permute(0, *(int(axis) + 1 for axis in order)).contiguous()


def _resize(volume: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    """Resample to another number of voxels in the same field of view; labels keep their type and their values."""
    if tuple(volume.shape[1:]) == tuple(size):
        return volume
    exact = mode == "nearest"
    values = volume if volume.is_floating_point() else volume.double()
    interpolation = INTERPOLATION[mode][len(size)]
    resized = functional.interpolate(
        values[None], size=tuple(size), mode=interpolation, align_corners=None if exact else False
    )[0]
    return resized.to(volume.dtype) if exact else resized


def _placed(tensor: torch.Tensor, affine: np.ndarray, meta: Mapping[str, Any]) -> MetaTensor:
    others = {key: value for key, value in meta.items() if key != MetaKeys.AFFINE}
    return MetaTensor(tensor, affine=torch.from_numpy(affine), meta=others)


def _shift(affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """The affine's change when its first voxel centre moves by so many of its voxels."""
    change = np.zeros((4, 4))
    change[:3, 3] = affine[:3, :3] @ voxels
    return change
