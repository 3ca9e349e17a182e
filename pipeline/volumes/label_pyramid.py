"""Coarser levels of a label image, made block by block from the finer ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.volumes.label_zarr import LabelImage
from pipeline.volumes.region_reader import Box, pieces, whole

SMALL = 256  # voxels along y and x that a viewer shows at once: no coarser level is needed
AT_ONCE = 1 << 25  # voxels of a finer level that are in memory


def build_pyramid(image: LabelImage, classes: Mapping[int, str] | None = None) -> None:
    """Make the coarser levels of a label image whose labels are all written, and announce it as complete.

    Each level holds every second voxel of the one before, the first of two: labels are no amounts, of which a mean
    could be taken, and the voxel lies where the scale and the translation of its level say. y and x are halved until
    256 voxels are left, z together with them wherever its voxels are shorter than twice the shortest edge.
    A level is made anew where this was interrupted, which takes as long as reading the label map once.

    Args:
        image: the label image.
        classes: the name of each label value but 0; None for instances.
    """
    image.withdraw()
    shapes, factors = _levels(image)
    steps = [tuple(np.floor_divide(coarser, finer).tolist()) for finer, coarser in itertools.pairwise(factors)]
    total = sum(math.prod(shape) for shape in shapes[1:])
    with tqdm(total=total, desc="coarser levels", unit="voxel", unit_scale=True, delay=2, disable=None) as bar:
        for number, (shape, step) in enumerate(zip(shapes[1:], steps, strict=True), 1):
            coarse = image.make_level(number, shape)
            fine = image.level(number - 1)
            for box in pieces(whole(shape), _block(coarse.chunks, step)):
                _subsample(fine, coarse, box, step)
                bar.update(math.prod(part.stop - part.start for part in box))
    image.announce([tuple(float(n) for n in factor) for factor in factors], classes)


def _levels(image: LabelImage) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shape of every level, and how many voxels of the first one it has for each of its own."""
    here = image.image.multiscale.levels[image.image.level]
    edges = [here.scale[image.image.multiscale.names.index(letter)] for letter in image.names]
    shapes = [tuple(int(n) for n in image.array.shape)]
    factors = [(1,) * len(edges)]
    while max(n for n, letter in zip(shapes[-1], image.names, strict=True) if letter in "yx") > SMALL:
        size = [edge * factor for edge, factor in zip(edges, factors[-1], strict=True)]
        shortest = min(one for one, letter in zip(size, image.names, strict=True) if letter in "zyx")
        halved = [
            letter in "yx" or (letter == "z" and one < 2 * shortest)
            for letter, one in zip(image.names, size, strict=True)
        ]
        step = [2 if half and n > 1 else 1 for half, n in zip(halved, shapes[-1], strict=True)]
        shapes.append(tuple(-(-n // s) for n, s in zip(shapes[-1], step, strict=True)))
        factors.append(tuple(f * s for f, s in zip(factors[-1], step, strict=True)))
    return shapes, factors


def _block(chunk: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    """Return whole chunks of the coarser level, as many along its last axis as fit in memory at the finer one."""
    taken = math.prod(chunk) * math.prod(step)
    return (*chunk[:-1], chunk[-1] * max(AT_ONCE // taken, 1))


def _subsample(fine: Any, coarse: Any, box: Box, step: tuple[int, ...]) -> None:
    limits = zip(box, step, fine.shape, strict=True)
    source = tuple(slice(part.start * s, min(part.stop * s, n)) for part, s, n in limits)
    labels = fine[source][tuple(slice(None, None, s) for s in step)]
    if labels.any():  # all else is 0 already
        coarse[box] = labels
