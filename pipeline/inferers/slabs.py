"""A prediction plane by plane: each slab is final when it comes, so that the whole never has to be held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.utils import convert_to_dst_type

from pipeline.errors import InputError
from pipeline.inferers.fitting import allocate

PIECE = 2**22  # values of a slab, 16 MiB in float32: what follows on it needs little memory as well


@dataclass(frozen=True)
class Slab:
    """The final prediction of a run of planes along the first spatial axis, of all images of a batch.

    Attributes:
        start, stop: the planes, counted in the image.
        logits: (B, K, stop - start, ...).
        spread: the standard deviation of each class's probability over several versions of the image, as the logits.
    """

    start: int
    stop: int
    logits: torch.Tensor
    spread: torch.Tensor | None = None


def slabs_of(
    inferer: Any, image: torch.Tensor, network: Callable[..., Any], spread: bool = False, scaled: bool = False
) -> Iterator[Slab]:
    """Yield the prediction of images (B, channels, *spatial) in slabs, in ascending order and without a gap.

    An inferer that has no method `slabs` gives one slab of everything.

    Args:
        inferer: from an image batch and a network to logits, (B, K, *spatial).
        image: the batch, mostly of one image.
        network: on the image's device.
        spread: also how much several predictions of a voxel disagree, of an inferer that averages them.
        scaled: the logits may come times a number above 0 of each voxel's own, and a slab is only used until the next
            is asked for. This saves an inferer that sums windows up (`sums`) a division.
    """
    if spread and not hasattr(inferer, "predict_with_spread"):
        reason = f"{type(inferer).__name__} predicts once, and that does not show how uncertain it is"
        raise InputError(reason, remedy="use pipeline.inferers.averaged.AveragedInferer around it")
    if scaled and not spread and hasattr(inferer, "sums"):
        yield from inferer.sums(image, network)
        return
    if hasattr(inferer, "slabs"):
        yield from map(_wide, inferer.slabs(image, network, **({"spread": True} if spread else {})))
        return
    logits, deviation = inferer.predict_with_spread(image, network) if spread else (inferer(image, network), None)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"the network gives a {type(logits).__name__}, where one tensor is needed")
    yield _wide(Slab(0, logits.shape[2], logits, deviation))


def _wide(slab: Slab) -> Slab:
    """A slab with logits of float32 or more: what follows computes with them, and bfloat16 has two or three digits."""
    dtype = torch.promote_types(slab.logits.dtype, torch.float32)
    return slab if slab.logits.dtype == dtype else replace(slab, logits=slab.logits.to(dtype))


def in_pieces(slab: Slab) -> Iterator[Slab]:
    """Yield a slab in views of at most `PIECE` values, or of one plane."""
    planes = planes_in_piece(slab.logits)
    for start in range(slab.start, slab.stop, planes):
        stop = min(start + planes, slab.stop)
        own = slice(start - slab.start, stop - slab.start)
        yield Slab(start, stop, slab.logits[:, :, own], None if slab.spread is None else slab.spread[:, :, own])


def planes_in_piece(values: torch.Tensor) -> int:
    """Return how many planes of a tensor (B, K, planes, ...) make a piece."""
    return max(PIECE // max(values[:, :, :1].numel(), 1), 1)


def joined(slabs: Iterable[Slab], inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits and the spread of all slabs together, with the metadata of the images, if they have any."""
    planes, wholes = inputs.shape[2], dict[str, torch.Tensor]()
    for slab in slabs:
        for name, part in (("logits", slab.logits), ("spread", slab.spread)):
            if part is None:
                continue
            if part.shape[2] == planes:
                wholes[name] = part.contiguous()
                continue
            if name not in wholes:
                wholes[name] = allocate((*part.shape[:2], planes, *part.shape[3:]), part.dtype, part.device)
            wholes[name][:, :, slab.start : slab.stop] = part
    logits, spread = wholes["logits"], wholes.get("spread")
    return _like(inputs, logits), None if spread is None else _like(inputs, spread)


def mirror(image: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """Return an image mirrored along axes; the image itself where there are none."""
    return image.flip(tuple(axes)) if axes else image


def _like(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return convert_to_dst_type(output, inputs, dtype=output.dtype, device=output.device)[0]
