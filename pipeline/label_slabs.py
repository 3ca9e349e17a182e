"""From an image to its label map, slab by slab: the logits of the whole image never exist at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from pipeline.batch.clock import during
from pipeline.errors import InputError
from pipeline.inferers.fitting import Shortage, attempt, does_not_fit
from pipeline.inferers.slabs import slabs_of
from pipeline.transforms.resample_planes import Planes
from pipeline.transforms.to_grid import FromGridd

Transform = Callable[[Any], Any]


def steps_of(transform: Transform) -> list[Transform]:
    """Return the single transforms that one is made of, in their order."""
    return list(transform.flatten().transforms) if isinstance(transform, Compose) else [transform]


def split_voxelwise(transforms: Compose | Sequence[Transform]) -> tuple[list[Transform], list[Transform]]:
    """Return the first transforms that need not see an image as a whole, and those after them.

    These are a `FromGridd` in the first place, and those that say so by an attribute `voxelwise = True`.
    """
    flat = steps_of(transforms) if isinstance(transforms, Compose) else list(transforms)
    count = int(bool(flat) and isinstance(flat[0], FromGridd))
    while count < len(flat) and getattr(flat[count], "voxelwise", False):
        count += 1
    return flat[:count], flat[count:]


@torch.no_grad()
def predict_labels(
    item: Mapping[Hashable, Any],
    network: Callable[..., Any],
    inferer: Callable[..., Any],
    transforms: Sequence[Transform],
    device: torch.device | str,
    keep_probabilities: bool = False,
    uncertainty: bool = False,
) -> dict[Hashable, Any]:
    """Return a record with its prediction on the file's grid, on the host: `pred`, as `transforms` make it of logits.

    Args:
        item: the record, with `image` (C, *spatial) on the network's grid.
        network: the network, on `device`.
        inferer: from an image batch and a network to logits.
        transforms: the first that `split_voxelwise` returns; without any, `pred` are the logits.
        device: where the network runs, and its prediction is put together.
        keep_probabilities: also keep what the transforms make beside `pred`: `probabilities` of all classes.
        uncertainty: also make `uncertainty` (1, *spatial), from 0 to 0.5: the standard deviation of a class's
            probability over the versions that an `AveragedInferer` predicts, of the class where it is largest.
    """
    grid, pointwise = _parts(transforms, keep_probabilities)
    canvas = _Canvas(item["image"], grid)
    predict = partial(_predict, canvas, network, inferer, pointwise, device, keep_probabilities, uncertainty)
    if isinstance(reason := attempt(predict), Shortage):
        raise does_not_fit(reason)
    return {**item, **canvas.finished()}


def _predict(
    canvas: _Canvas,
    network: Callable[..., Any],
    inferer: Callable[..., Any],
    pointwise: Sequence[Transform],
    device: torch.device | str,
    keep_probabilities: bool,
    uncertainty: bool,
) -> None:
    batch = convert_to_tensor(canvas.image)[None].to(device)
    scaled = canvas.keeps_size and ignores_scale(pointwise)
    for slab in during("stitch", slabs_of(inferer, batch, network, uncertainty, scaled)):
        for start, stop, logits in canvas.on_file_grid("pred", (slab.start, slab.stop, slab.logits[0])):
            record: dict[Hashable, Any] = {"pred": logits}
            for transform in pointwise:
                record = transform(record)
            for key, values in record.items():
                if key == "pred" or keep_probabilities:
                    canvas.write(key, start, stop, values)
        if slab.spread is not None:
            widest = slab.spread[0].amax(dim=0, keepdim=True)
            for start, stop, values in canvas.on_file_grid("uncertainty", (slab.start, slab.stop, widest)):
                canvas.write("uncertainty", start, stop, values)


def _parts(transforms: Sequence[Transform], keep_probabilities: bool) -> tuple[FromGridd | None, list[Transform]]:
    voxelwise, others = split_voxelwise(transforms)
    if others:
        reason = f"{type(others[0]).__name__} needs the whole image, not a slab of it"
        raise InputError(reason, remedy="give it an attribute `voxelwise = True` if that is not so")
    grid = voxelwise[0] if voxelwise and isinstance(voxelwise[0], FromGridd) else None
    voxelwise = voxelwise if grid is None else voxelwise[1:]
    return grid, voxelwise if keep_probabilities else [without_probabilities(transform) for transform in voxelwise]


def ignores_scale(pointwise: Sequence[Transform]) -> bool:
    """Return whether logits times a number above 0 of each voxel's own become the same: what reads them first tells."""
    first = pointwise[0] if pointwise else None
    return getattr(first, "ignores_scale", False) and "pred" in getattr(first, "keys", ())


def without_probabilities(transform: Transform) -> Transform:
    """Return a transform that makes labels alone, without the probabilities beside them."""
    if not hasattr(transform, "probabilities_keys"):
        return transform
    lean = copy(transform)
    lean.probabilities_keys = (None,) * len(transform.probabilities_keys)
    return lean


class _Canvas:
    """Results that are written plane by plane along the network's axes, and turned to those of the file at the end."""

    def __init__(self, image: MetaTensor, grid: FromGridd | None) -> None:
        self.image, self.grid = image, grid
        self.size = tuple(image.shape[1:]) if grid is None else grid.turned_size(image)
        self.resamplers: dict[Hashable, Any] = {}
        self.results: dict[Hashable, torch.Tensor] = {}

    @property
    def keeps_size(self) -> bool:
        """Whether no voxel is resampled."""
        return tuple(self.size) == tuple(self.image.shape[1:])

    def on_file_grid(self, key: Hashable, planes: Planes) -> Iterator[Planes]:
        """Yield planes that the network gives as those of the file."""
        if self.grid is None:
            yield planes
            return
        if key not in self.resamplers:
            self.resamplers[key] = self.grid.resampler(self.image, key)
        yield from self.resamplers[key].push(planes[2])

    def write(self, key: Hashable, start: int, stop: int, values: torch.Tensor) -> None:
        """Put planes in their place."""
        if key not in self.results:
            self.results[key] = torch.empty((len(values), *self.size), dtype=values.dtype)
        self.results[key][:, start:stop] = torch.as_tensor(values)

    def finished(self) -> dict[Hashable, MetaTensor]:
        """Return all results on the file's grid."""
        return {key: self._placed(self.results.pop(key)) for key in list(self.results)}

    def _placed(self, values: torch.Tensor) -> MetaTensor:
        if self.grid is not None:
            return self.grid.placed(values, self.image)
        return MetaTensor(values, meta=self.image.meta, applied_operations=self.image.applied_operations)
