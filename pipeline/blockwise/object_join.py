"""Connected components of a label map that is never in memory: numbered by boxes, and joined across their borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from pipeline.blockwise.file_grid import boxes_between, grown
from pipeline.volumes.region_reader import Box, LabelStore

VOXELS = 2**25  # of a box: its numbers take 128 MiB
Place = tuple[int, ...]


def number_objects(
    labels: LabelStore,
    numbers: LabelStore,
    shape: Sequence[int],
    chunk: Sequence[int],
    min_size: int = 0,
    voxels: int = VOXELS,
) -> int:
    """Number the face-connected components of what is above 0, as `Instancesd` does of the whole; return how many.

    Numbers are 1, 2, ... by an object's first voxel, and objects below `min_size` voxels are 0. The label map is read
    twice; in memory are one box, the faces of the boxes of one layer, and three numbers of each box's every object.

    Args:
        labels: the label map.
        numbers: where the objects' numbers go.
        shape: of both.
        chunk: voxels along each axis that `numbers` stores together.
        min_size: smaller objects are left out, in voxels.
        voxels: of a box, at most, where chunks are not larger.
    """
    edges = grown(chunk, shape, voxels)
    borders = [[*range(0, n, edge), n] for n, edge in zip(shape, edges, strict=True)]
    boxes = dict(zip(product(*(range(len(axis) - 1) for axis in borders)), boxes_between(borders), strict=True))
    found = _Parts(tuple(shape))
    for place, box in tqdm(boxes.items(), "finding objects", unit="box", delay=2, disable=None):
        found.add(place, box, _components(labels.read(box)))
    table, count = found.numbers(min_size)
    for place, box in tqdm(boxes.items(), "numbering objects", unit="box", delay=2, disable=None):
        first = found.offsets[place]
        local, objects = _components(labels.read(box))
        own = np.concatenate([table[:1], table[first + 1 : first + objects + 1]])
        numbers.write(box, own[local])
    return count


def _components(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """The components of a box, as `pipeline.transforms.instances.components` numbers them."""
    return ndimage.label(labels > 0)


@dataclass
class _Parts:
    """The parts of objects that the boxes hold, and which of them touch across a border."""

    shape: tuple[int, ...]
    offsets: dict[Place, int] = field(default_factory=dict)  # a box's part i is i + its offset
    sizes: list[np.ndarray] = field(default_factory=list)
    firsts: list[np.ndarray] = field(default_factory=list)  # each part's first voxel, counted through the whole volume
    pairs: list[np.ndarray] = field(default_factory=list)
    faces: dict[tuple[Place, int], np.ndarray] = field(default_factory=dict)  # of a box's last plane along an axis
    count: int = 0

    def add(self, place: Place, box: Box, parts: tuple[np.ndarray, int]) -> None:
        """Take in the parts of a box; boxes come in the order of their places, the last axis fastest."""
        local, objects = parts
        self.offsets[place] = self.count
        flat = local.ravel()
        inside = np.flatnonzero(flat)
        self.sizes.append(np.bincount(flat[inside], minlength=objects + 1)[1:])
        first = np.empty(objects, np.int64)
        first[flat[inside[::-1]] - 1] = inside[::-1]  # of several, the last one written stays
        corner = np.array([part.start for part in box])[:, None]
        where = np.stack(np.unravel_index(first, local.shape)) + corner
        self.firsts.append(np.ravel_multi_index(tuple(where), self.shape))
        for axis in range(local.ndim):
            self._join(place, axis, local)
        self.count += objects

    def _join(self, place: Place, axis: int, local: np.ndarray) -> None:
        """Pair a box's parts with those that lie before them along an axis, and keep its own last plane."""
        before = self.faces.pop((tuple(n - (number == axis) for number, n in enumerate(place)), axis), None)
        begin = _counted_on(local.take(0, axis), self.count)
        if before is not None:
            touching = (begin > 0) & (before > 0)
            if touching.any():
                self.pairs.append(np.unique(np.stack([before[touching], begin[touching]]), axis=1))
        self.faces[place, axis] = _counted_on(local.take(-1, axis), self.count)

    def numbers(self, min_size: int) -> tuple[np.ndarray, int]:
        """Return the number of each part's object, with 0 for part 0, and how many objects there are."""
        if not self.count:
            return np.zeros(1, np.uint8), 0
        sizes, firsts = np.concatenate(self.sizes), np.concatenate(self.firsts)
        one, other = np.concatenate(self.pairs, axis=1) - 1 if self.pairs else np.empty((2, 0), np.int64)
        graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(self.count, self.count))
        objects, of_part = connected_components(graph, directed=False)
        size, first = np.zeros(objects, np.int64), np.full(objects, np.iinfo(np.int64).max)
        np.add.at(size, of_part, sizes)
        np.minimum.at(first, of_part, firsts)
        kept = np.flatnonzero(size >= min_size)
        kept = kept[np.argsort(first[kept])]
        number = np.zeros(objects, np.min_scalar_type(len(kept)))
        number[kept] = np.arange(1, len(kept) + 1)
        return np.concatenate([np.zeros(1, number.dtype), number[of_part]]), len(kept)


def _counted_on(face: np.ndarray, offset: int) -> np.ndarray:
    """Numbers of parts through all boxes."""
    return np.where(face > 0, face.astype(np.int64) + offset, 0)
