"""Random elastic deformation, rotation, scaling, flips and crop in one resampling, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor, ensure_tuple_rep
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from torch.nn.functional import grid_sample

from pipeline.errors import InputError

MODES = ("linear", "nearest")
NUMPY_PADDING: dict[str, Literal["reflect", "edge", "constant"]] = {
    "reflection": "reflect",
    "border": "edge",
    "zeros": "constant",
}
EXAMINED = 2**18  # voxels of a label that one balanced draw looks at: about 3 ms


class RandElasticd(RandomizableTransform, MapTransform):
    """Crop at random, and with probability `prob` deform the crop: `source = centre + A (p - centre) + u(p)`.

    u is the elastic displacement of the U-Net paper (Ronneberger 2015, section 3.1): vectors drawn from N(0, sigma)
    on a coarse grid that spans the image, interpolated by a bicubic spline through them. A holds rotation, scale and
    flips about the centre of the crop. Only the pixels of the crop are computed. A draw without rotation, scaling
    and displacement (flips alone, or nothing) is an exact copy.

    Items are channel-first tensors or arrays of equal spatial shape. Results are plain `torch.Tensor`s of the same
    dtype: meta data would no longer be true, and carrying it costs more than the resampling.

    Args:
        keys: items to transform alike.
        roi_size: size of the crop per axis; -1 is the whole axis. A larger one pads by `padding_mode`.
        beyond: pixels by which the crop may reach beyond the image at each end, per axis: what a valid network's output
            lacks there, so that it reaches the image's border. The paper: 92.
        mode: "linear" or "nearest" (labels: values are copied, never computed), one for each key.
        prob: probability of the deformation; the crop is always drawn.
        grid: nodes of the coarse grid per axis, at least 2; the outer ones are the image's corners. The paper: 3.
        sigma: standard deviation of the displacements in pixels, per axis; 0 is none. The paper: 10.
        rotation: largest angle in degrees, drawn from [-rotation, rotation]; in 3D about each axis, one or three.
        scaling: range of the magnification, drawn log-uniformly.
        flip_prob: probability of a flip, per axis.
        padding_mode: "reflection" (without repeating the edge), "border" or "zeros": what lies outside the image.
        spacing: size of a voxel per axis, relative: rotations are rigid in these units.
        balance_key: label (1, *spatial) whose classes, or instances, above 0 the crops are to show equally often.
        balance_prob: probability that the crop is centred, as far as the image allows, on a voxel of a class
            drawn from those present. Large labels are searched on a random sub-lattice.
    """

    copies_input = True  # so that a cache need not

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int] | int = -1,
        mode: Sequence[str] | str = "linear",
        prob: float = 1.0,
        grid: Sequence[int] | int = 3,
        sigma: Sequence[float] | float = 10.0,
        rotation: Sequence[float] | float = 0.0,
        scaling: tuple[float, float] = (1.0, 1.0),
        flip_prob: Sequence[float] | float = 0.0,
        padding_mode: str = "reflection",
        spacing: Sequence[float] | float = 1.0,
        balance_key: Hashable | None = None,
        balance_prob: float = 0.0,
        beyond: Sequence[int] | int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if unknown := set(self.mode) - set(MODES):
            raise InputError(f"mode is {sorted(unknown)}", remedy=f"use one of {MODES} for each key")
        if padding_mode not in NUMPY_PADDING:
            raise InputError(f"padding_mode is {padding_mode!r}", remedy=f"use one of {tuple(NUMPY_PADDING)}")
        if np.min(grid) < 2:
            raise InputError(f"grid is {grid}", remedy="use at least 2 nodes per axis")
        if not 0 < scaling[0] <= scaling[1]:
            raise InputError(f"scaling is {scaling}", remedy="use (smallest, largest), both above 0")
        for name, chance in (("prob", prob), ("flip_prob", flip_prob), ("balance_prob", balance_prob)):
            if np.min(chance) < 0 or np.max(chance) > 1:
                raise InputError(f"{name} is {chance}", remedy="give a probability from 0 to 1")
        if balance_prob > 0 and balance_key is None:
            raise InputError(f"balance_prob is {balance_prob} without a label", remedy="name it as balance_key")
        self.roi_size, self.grid, self.sigma, self.rotation = roi_size, grid, sigma, rotation
        self.scaling, self.flip_prob, self.padding_mode, self.spacing = scaling, flip_prob, padding_mode, spacing
        self.balance_key, self.balance_prob, self.beyond = balance_key, balance_prob, beyond

    def randomize(self, data: Mapping[Hashable, Any], shape: Sequence[int]) -> None:  # type: ignore[override]
        """Draw `size` and `start` of the crop, `matrix` (A) and `displacements` (*grid, d) for images of `shape`."""
        dims = len(shape)
        super().randomize(None)
        wanted = ensure_tuple_rep(self.roi_size, dims)
        self.size = tuple(n if size is None or size < 1 else int(size) for size, n in zip(wanted, shape, strict=True))
        self.start = self._draw_start(data, shape)
        self.matrix, self.displacements = np.eye(dims), None
        if not self._do_transform:
            return
        angles = self.R.uniform(-1, 1, 3 if dims == 3 else 1) * np.asarray(self.rotation)
        magnification = np.exp(self.R.uniform(*np.log(self.scaling)))
        flips = self.R.random_sample(dims) < np.asarray(self.flip_prob)
        self.matrix = affine_matrix(angles, magnification, flips, self.spacing)
        if np.any(self.sigma):
            vectors = self.R.standard_normal((*ensure_tuple_rep(self.grid, dims), dims))
            self.displacements = vectors * np.asarray(self.sigma)

    def _draw_start(self, data: Mapping[Hashable, Any], shape: Sequence[int]) -> tuple[int, ...]:
        lowest = -np.broadcast_to(self.beyond, len(shape))
        room = np.subtract(shape, self.size) - 2 * lowest
        start = lowest + self.R.randint(np.maximum(room, 0) + 1)
        if self.balance_prob and self.R.random_sample() < self.balance_prob:
            voxel = self._foreground_voxel(convert_to_tensor(data[self.balance_key], track_meta=False)[0])
            if voxel is not None:
                start = np.clip(voxel - np.asarray(self.size) // 2, lowest, lowest + np.maximum(room, 0))
        return tuple(np.where(room < 0, lowest + room // 2, start).tolist())

    def _foreground_voxel(self, label: torch.Tensor) -> np.ndarray | None:
        stride = int(np.ceil((label.numel() / EXAMINED) ** (1 / label.ndim)))
        strides = np.minimum(stride, label.shape)
        phase = self.R.randint(strides)
        seen = label[tuple(slice(p, None, s) for p, s in zip(phase, strides, strict=True))]
        classes = seen.unique()
        classes = classes[classes > 0]
        if len(classes) == 0:
            return None
        voxels = (seen == classes[self.R.randint(len(classes))]).nonzero()
        return voxels[self.R.randint(len(voxels))].cpu().numpy() * strides + phase

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with every key cropped and deformed alike."""
        result = dict(data)
        modes = dict(self.key_iterator(result, self.mode))
        items = {key: convert_to_tensor(data[key], track_meta=False) for key in modes}
        shapes = {tuple(item.shape[1:]) for item in items.values()}
        if not shapes:
            return result
        if len(shapes) > 1:
            listed = ", ".join(f"{key} {tuple(item.shape)}" for key, item in items.items())
            raise InputError(f"the spatial shapes differ: {listed}", remedy="resample all keys to one shape")
        shape = shapes.pop()
        self.randomize(data, shape)
        if self.displacements is None and np.array_equal(np.abs(self.matrix), np.eye(len(shape))):
            flips = np.diag(self.matrix) < 0
            return result | {k: crop(x, self.start, self.size, flips, self.padding_mode) for k, x in items.items()}
        field = source_grid(shape, self.start, self.size, self.matrix, self.displacements, self.padding_mode)
        for mode in MODES:
            result |= resample({k: x for k, x in items.items() if modes[k] == mode}, field, mode, self.padding_mode)
        return result


def affine_matrix(
    angles: Sequence[float] | np.ndarray, magnification: float, flips: ArrayLike, spacing: ArrayLike = 1.0
) -> np.ndarray:
    """Return A (d, d) that takes output offsets to source offsets, in voxels: flip, then rotate, then shrink.

    A positive angle turns the image as `np.rot90` does in the plane of the axes (0, 1); the three angles of 3D, in
    degrees, belong to the axes 0, 1 and 2, and each turns the plane of the two others.
    """
    signs = np.where(flips, -1.0, 1.0)
    dims = len(signs)
    units = np.broadcast_to(np.asarray(spacing, dtype=float), dims)
    matrix = np.diag(signs * units)
    planes = list(combinations(range(dims), 2))[::-1]  # 3D: (1, 2), (0, 2), (0, 1)
    for (a, b), angle in zip(planes, np.deg2rad(angles), strict=True):
        turn = np.eye(dims)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return np.diag(1 / units) @ matrix / magnification


@lru_cache(maxsize=64)
def spline_matrix(nodes: int, length: int) -> torch.Tensor:
    """Return the weights (length, nodes) of the natural cubic spline through values at `nodes` equidistant pixels.

    The first and the last node are the first and the last pixel. The spline passes through the node values and
    reproduces linear functions, so that coordinates survive it.
    """
    if length == 1:
        return torch.eye(1, nodes)
    spline = CubicSpline(np.linspace(0, length - 1, nodes), np.eye(nodes), bc_type="natural")
    return torch.from_numpy(spline(np.arange(length)).astype(np.float32))


def source_grid(
    shape: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    matrix: np.ndarray,
    displacements: np.ndarray | None,
    padding_mode: str = "reflection",
) -> torch.Tensor:
    """Return where each pixel of the crop is read, (*size, d) float32 as `grid_sample` with `align_corners=True` wants.

    The coarse nodes hold source positions, affine part and displacement together; one small matrix product per axis
    interpolates them at the pixels of the crop. Reflection is already folded in.
    """
    dims = len(shape)
    counts = (2,) * dims if displacements is None else displacements.shape[:-1]
    lows = [min(s, 0) for s in start]
    ends = [max(n, s + length) for n, s, length in zip(shape, start, size, strict=True)]
    lengths = [end - low for end, low in zip(ends, lows, strict=True)]  # the nodes span image and crop
    axes = [low + np.linspace(0, length - 1, count) for low, length, count in zip(lows, lengths, counts, strict=True)]
    centre = np.asarray(start) + (np.asarray(size) - 1) / 2
    nodes = centre + (np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - centre) @ matrix.T
    if displacements is not None:
        nodes = nodes + displacements
    nodes = nodes * 2 / np.maximum(np.asarray(shape) - 1, 1) - 1  # the image is [-1, 1]
    field = torch.from_numpy(np.ascontiguousarray(nodes[..., ::-1], dtype=np.float32))  # x before y
    for axis in reversed(range(dims)):
        first = start[axis] - lows[axis]
        rows = spline_matrix(counts[axis], lengths[axis])[first : first + size[axis]]
        field = (rows @ field.flatten(axis + 1)).unflatten(-1, field.shape[axis + 1 :])
    return _reflect(field) if padding_mode == "reflection" else field


def _reflect(field: torch.Tensor) -> torch.Tensor:
    """Fold coordinates into [-1, 1]; grid_sample's own reflection takes twice the time of the sampling in 3D."""
    low, high = field.aminmax()
    for _ in range(int(np.ceil((max(-low.item(), high.item()) - 1) / 2))):
        field = field.clamp(-1, 1).mul_(2).sub_(field)
    return field


def resample(
    items: dict[Hashable, torch.Tensor], field: torch.Tensor, mode: str, padding_mode: str
) -> dict[Hashable, torch.Tensor]:
    """Read channel-first items at `field` in one pass; "nearest" copies values of any dtype bit by bit."""
    if not items:
        return {}
    exact = mode == "nearest"
    carried = [_to_words(item) if exact else item.float() for item in items.values()]
    stacked = torch.cat(carried)[None] if len(carried) > 1 else carried[0][None]
    sampled = grid_sample(
        stacked,
        field[None].to(stacked.device),
        mode="nearest" if exact else "bilinear",
        padding_mode="zeros" if padding_mode == "zeros" else "border",
        align_corners=True,
    )
    parts = sampled[0].split([len(part) for part in carried])
    back = _from_words if exact else _rounded
    return {key: back(part, item.dtype) for part, (key, item) in zip(parts, items.items(), strict=True)}


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (values if dtype.is_floating_point else values.round()).to(dtype)


def _to_words(item: torch.Tensor) -> torch.Tensor:
    """Hold each value in one float32 channel, or its bits in two: ids above 2^24 stay exact, since nothing is added."""
    if item.element_size() < 4:
        return item.float()
    words = item.contiguous().unsqueeze(-1).view(torch.float32)
    return words.movedim(-1, 0).flatten(0, 1)


def _from_words(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype.itemsize < 4:
        return words.to(dtype)
    return words.unflatten(0, (dtype.itemsize // 4, -1)).movedim(0, -1).contiguous().view(dtype).squeeze(-1)


def crop(
    item: torch.Tensor, start: Sequence[int], size: Sequence[int], flips: Iterable[bool], padding_mode: str
) -> torch.Tensor:
    """Return a copy of the window of a channel-first tensor, padded where it is larger than the image, and flipped."""
    for axis, (first, length) in enumerate(zip(start, size, strict=True), start=1):
        n = item.shape[axis]
        before, after = max(-first, 0), max(first + length - n, 0)
        if not before and not after:
            item = item.narrow(axis, first, length)
            continue
        padded = np.pad(np.arange(1, n + 1), (before, after), NUMPY_PADDING[padding_mode])  # 0 is outside
        index = padded[first + before :][:length]
        item = item.index_select(axis, torch.from_numpy(np.maximum(index - 1, 0)).to(item.device))
        item = item.index_fill(axis, torch.from_numpy(np.flatnonzero(index == 0)).to(item.device), 0)
    return item.flip([axis for axis, flip in enumerate(flips, start=1) if flip])
