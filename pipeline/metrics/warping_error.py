"""Warping error of the ISBI-2012 challenge: what is left of a prediction's mistakes when only topology counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pipeline.metrics.slice_details import SliceDetails
from pipeline.metrics.slice_stack import THRESHOLDS, label_cells, slice_stack

Mask = NDArray[np.bool_]

# The eight neighbours, clockwise from the north, as (row, column): bit k of a neighbourhood is the pixel at RING[k].
# Even k are the 4-neighbours.
RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


class Mistake(IntEnum):
    """What a pixel that no warping mends does to the objects of the truth."""

    NONE = 0
    OBJECT_ADDITION = 1
    OBJECT_DELETION = 2
    HOLE_ADDITION = 3
    HOLE_DELETION = 4
    MERGE = 5
    SPLIT = 6


@dataclass(frozen=True)
class WarpingDetails(SliceDetails):
    """Pixels of each kind of mistake, threshold and slice: `counts` is (len(Mistake), thresholds, slices).

    `has_cell`, (slices,), says where the truth has a cell: the errors are nan (n/a) where no slice has one.
    """

    counts: NDArray[np.int64]
    has_cell: NDArray[np.bool_]

    @property
    def splits(self) -> NDArray[np.int64]:
        """Pixels that split a cell, shape (thresholds, slices)."""
        return self.counts[Mistake.SPLIT]

    @property
    def merges(self) -> NDArray[np.int64]:
        """Pixels that merge two cells, shape (thresholds, slices)."""
        return self.counts[Mistake.MERGE]

    @property
    def errors(self) -> NDArray[np.float64]:
        """Share of pixels that split or merge, shape (thresholds,)."""
        return self._share(self.splits + self.merges)

    @property
    def classic_errors(self) -> NDArray[np.float64]:
        """Share of pixels with a mistake of any kind, shape (thresholds,)."""
        return self._share(self.counts.sum(axis=0) - self.counts[Mistake.NONE])

    @property
    def best(self) -> int:
        """Index of the threshold with the lowest error."""
        return int(np.argmin(self.errors))

    @property
    def error(self) -> float:
        """Share of pixels that split or merge, at the best threshold."""
        return float(self.errors[self.best])

    def __float__(self) -> float:
        return self.error

    def _share(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        share = pixels.sum(axis=1) / self.counts.sum(axis=(0, 2))
        return share if self.has_cell.any() else np.full_like(share, np.nan)


def warping_error(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return min over t of the share of pixels that split or merge cells; nan (n/a) without a cell in the truth.

    The truth is warped towards the prediction, in each slice by itself, without a change of topology; what still
    differs is a mistake. Cells are 4-connected.

    Args:
        truth: one slice (height, width) or a stack (slices, height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape; at each threshold t, above t is cell.
        thresholds: the t to try.

    Jain et al. 2010, Boundary learning by optimization with topological constraints.
    """
    return warping_error_details(truth, prediction, thresholds).error


def warping_error_details(
    truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> WarpingDetails:
    """Return the kinds of mistakes at each threshold and slice; the arguments are those of `warping_error`."""
    thresholds = tuple(map(float, thresholds))
    cells, probability = slice_stack(truth, prediction)
    counts = np.zeros((len(Mistake), len(thresholds), len(cells)), np.int64)
    for s, pair in enumerate(zip(cells, probability, strict=True)):
        for t, threshold in enumerate(thresholds):
            counts[:, t, s] = np.bincount(warping_mistakes(*pair, threshold).ravel(), minlength=len(Mistake))
    return WarpingDetails(thresholds, counts, np.array([mask.any() for mask in cells]))


def warping_mistakes(truth: ArrayLike, prediction: ArrayLike, threshold: float) -> NDArray[np.uint8]:
    """Return the `Mistake` of each pixel of one slice, uint8 (height, width).

    Args:
        truth: (height, width); above 0 is cell.
        prediction: P(cell) in [0, 1], of the same shape.
        threshold: above it is cell.
    """
    cells, probability = slice_stack(truth, prediction)
    warped = warp(cells[0], probability[0], threshold)
    return _classify(warped, warped != (probability[0] > threshold))


def warp(truth: Mask, prediction: NDArray[np.floating], threshold: float) -> Mask:
    """Return the truth with simple points flipped towards [prediction > threshold] until none is left, (height, width).

    Rounds over the pixels that differ begin with those where |prediction - threshold| is largest, ties column by
    column. A flip changes which of its neighbours are simple, also in the same round.
    """
    wrong = np.pad(truth != (prediction > threshold), 1)
    columns, rows = np.nonzero(wrong.T)
    certainty = np.abs(prediction[rows - 1, columns - 1] - threshold)
    order = (rows * wrong.shape[1] + columns)[np.argsort(-certainty, kind="stable")]
    codes = _neighbourhoods(np.pad(truth, 1))
    left = bytearray(wrong.tobytes())
    _flip_simple_points(order.tolist(), bytearray(codes.tobytes()), left, wrong.shape[1])
    flipped = wrong & ~np.frombuffer(left, bool).reshape(wrong.shape)
    return truth ^ flipped[1:-1, 1:-1]


def _flip_simple_points(order: list[int], codes: bytearray, wrong: bytearray, width: int) -> None:
    """Clear `wrong` where a pixel of `order` is flipped; `codes` are the neighbourhoods, rows of `width`.

    Rounds over all pixels would ask most of them in vain: a pixel that is not simple becomes so only when a neighbour
    flips. So a queue holds the visits that may succeed, numbered round * len(order) + rank.
    """
    # Seen from the neighbour at RING[k], this pixel lies on the opposite side, at bit k + 4.
    steps = [(row * width + column, 1 << (k + 4) % 8) for k, (row, column) in enumerate(RING)]
    n, rank = len(order), {pixel: place for place, pixel in enumerate(order)}
    visits = [place for place, pixel in enumerate(order) if SIMPLE[codes[pixel]]]
    while visits:
        visit = heappop(visits)
        pixel = order[visit % n]
        if not (wrong[pixel] and SIMPLE[codes[pixel]]):
            continue
        wrong[pixel] = False
        for step, bit in steps:
            neighbour = pixel + step
            if wrong[neighbour]:
                codes[neighbour] ^= bit
                if SIMPLE[codes[neighbour]]:
                    again = visit - visit % n + rank[neighbour]
                    heappush(visits, again if again > visit else again + n)


def _classify(warped: Mask, wrong: Mask) -> NDArray[np.uint8]:
    """Name the mistake of each pixel of `wrong` by the objects among its neighbours in the image."""
    mistakes = np.zeros(warped.shape, np.uint8)
    rows, columns = np.nonzero(wrong)
    if not len(rows):
        return mistakes
    # Beyond the image is membrane. That adds no 0 to the ids: on the rim, a pixel beside nothing but cell is simple.
    near = _ring(np.pad(label_cells(warped), 1), rows, columns)
    objects, touches_membrane = _count_ids(near), (near == 0).any(axis=1)
    is_cell = warped[rows, columns]
    mistakes[rows, columns] = np.select(
        [objects == 0, (objects == 1) & ~touches_membrane, objects == 1],
        [
            np.where(is_cell, Mistake.OBJECT_DELETION, Mistake.OBJECT_ADDITION),
            np.where(is_cell, Mistake.HOLE_ADDITION, Mistake.HOLE_DELETION),
            np.where(
                is_cell,
                np.where(_cuts(warped, rows, columns), Mistake.SPLIT, Mistake.HOLE_DELETION),
                Mistake.HOLE_ADDITION,
            ),
        ],
        np.where(is_cell, Mistake.SPLIT, Mistake.MERGE),
    )
    return mistakes


def _cuts(warped: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
    """Say for each pixel whether its object falls apart without it.

    Around the pixel its object appears as some pieces, parted by as many pieces of membrane. Membrane pieces that are
    connected elsewhere enclose object pieces: c object pieces and m different membranes make c - m + 1 objects.
    """
    padded = np.pad(warped, 1)
    membranes = ndimage.label(~padded, np.ones((3, 3)))[0]  # 8-connected, and all one beyond the image
    pieces = PIECES[_neighbourhoods(padded)[rows + 1, columns + 1]]
    return pieces - _count_ids(_ring(membranes, rows, columns)) + 1 > 1


def _ring(padded: NDArray[np.int32], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int32]:
    """Return the eight neighbours of each pixel, (pixels, 8), of an image with one pixel of padding."""
    return np.stack([padded[rows + 1 + row, columns + 1 + column] for row, column in RING], axis=1)


def _count_ids(near: NDArray[np.int32]) -> NDArray[np.intp]:
    """Count the distinct ids above 0 in each row."""
    near = np.sort(near, axis=1)
    first = np.diff(near, axis=1, prepend=-1) != 0
    return (first & (near > 0)).sum(axis=1)


def _neighbourhoods(padded: Mask) -> NDArray[np.uint8]:
    """Return the 8-bit neighbourhood of each pixel, of the shape of `padded`; 0 on its rim."""
    codes = np.zeros(padded.shape, np.uint8)
    height, width = padded.shape
    for k, (row, column) in enumerate(RING):
        near = padded[1 + row : height - 1 + row, 1 + column : width - 1 + column]
        codes[1:-1, 1:-1] |= near.astype(np.uint8) << k
    return codes


def _count_pieces() -> NDArray[np.intp]:
    """Count, in each of the 256 neighbourhoods, the 4-connected foreground pieces that touch a 4-neighbour.

    A piece ends, clockwise, at the one 4-neighbour from which no corner leads on to the next (Yokoi et al. 1975). All
    eight in the foreground make a ring without an end: 0.
    """
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    leads_on = np.roll(bits, -1, axis=1) & np.roll(bits, -2, axis=1)
    return (bits & ~leads_on & 1)[:, ::2].sum(axis=1)


PIECES = _count_pieces()
# One piece of foreground means one 8-connected piece of background: flipping the pixel leaves both as they are.
SIMPLE = bytes(PIECES == 1)
