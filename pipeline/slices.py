"""Small pictures of the same cases in every evaluation, so that runs can be looked at side by side."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.atomic import atomic_path

Bytes = NDArray[np.uint8]
MOST_CASES = 24  # that every run keeps, whatever it makes of them
MOST_WORST = 3
MOST_SIDE = 224  # pixels: 27 noisy slices of 224 x 224 are 1.4 MB
MOST_BYTES = 2_000_000


class Slice(NamedTuple):
    """One case in a plane: the image in 256 greys, classes of truth and prediction, all (H, W) and uint8."""

    score: float
    image: Bytes
    truth: Bytes
    prediction: Bytes


def slice_of(image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any], score: float) -> Slice:
    """Return what is kept of a case: of a volume the plane with most truth, which no run can change.

    Args:
        image: (C, H, W) or (C, X, Y, Z); channels are averaged.
        truth: class indices without the channel.
        prediction: the same shape.
        score: what the case came to.
    """
    if truth.ndim == 3:
        plane = int(np.argmax((truth > 0).sum(axis=(0, 1)))) if truth.any() else truth.shape[-1] // 2
        image, truth, prediction = image[..., plane], truth[..., plane], prediction[..., plane]
    step = -(-max(truth.shape) // MOST_SIDE)
    grey = image.mean(axis=0, dtype=np.float32)[::step, ::step]
    low, high = np.percentile(grey, [1, 99])
    grey = np.clip((grey - low) / max(float(high - low), 1e-9), 0, 1) * 255
    labels = (np.minimum(classes[::step, ::step], 255).astype(np.uint8) for classes in (truth, prediction))
    return Slice(float(score), grey.round().astype(np.uint8), *labels)


class KeptSlices:
    """The slices of one evaluation: the cases whose ids have the smallest hashes, and the worst ones.

    The choice depends on ids alone, so that runs on the same cases keep the same ones, and so do runs on overlapping
    sets as far as they overlap. Memory holds no more than what is written.
    """

    def __init__(self) -> None:
        self._chosen: dict[str, Slice] = {}
        self._worst: dict[str, Slice] = {}

    def add(self, case: str, image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any], score: float) -> None:
        """Look at a case, and keep its slice if it is one of the chosen or, so far, one of the worst."""
        is_chosen = case in sorted([*self._chosen, case], key=_rank)[:MOST_CASES]
        is_worst = not np.isnan(score) and case in _lowest({**self._scores(), case: score})
        if is_chosen or is_worst:
            kept = slice_of(image, truth, prediction, score)
            self.merge({case: kept})

    def merge(self, slices: Mapping[str, Slice]) -> None:
        """Take slices of another process, as if their cases had been seen here."""
        chosen, worst = {**self._chosen, **slices}, {**self._worst, **slices}
        self._chosen = {case: chosen[case] for case in sorted(chosen, key=_rank)[:MOST_CASES]}
        scores = {case: kept.score for case, kept in worst.items() if not np.isnan(kept.score)}
        self._worst = {case: worst[case] for case in _lowest(scores)}

    @property
    def slices(self) -> dict[str, Slice]:
        """The kept slices by case."""
        return {**self._chosen, **self._worst}

    def _scores(self) -> dict[str, float]:
        return {case: kept.score for case, kept in self._worst.items()}


def write_slices(file: Path, slices: Mapping[str, Slice]) -> None:
    """Write slices as a compressed NumPy archive of numbers and text; the last ones are left out above 2 MB."""
    content = _archive(slices)
    while len(content) > MOST_BYTES and slices:
        slices = dict(list(slices.items())[:-1])
        content = _archive(slices)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)


def read_slices(content: bytes) -> dict[str, Slice]:
    """Return the slices of an archive by case; of one that is damaged, or holds objects, none."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {
                str(case): Slice(float(archive[f"{position}/score"]), *_images(archive, position))
                for position, case in enumerate(archive["cases"])
            }
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return {}


def _archive(slices: Mapping[str, Slice]) -> bytes:
    arrays: dict[str, Any] = {"cases": np.array(list(slices), dtype=str)}
    for position, kept in enumerate(slices.values()):
        arrays |= {f"{position}/{name}": np.asarray(value) for name, value in kept._asdict().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _images(archive: Mapping[str, NDArray[Any]], position: int) -> Iterator[Bytes]:
    for name in ("image", "truth", "prediction"):
        yield archive[f"{position}/{name}"].astype(np.uint8)


def _rank(case: str) -> str:
    return hashlib.sha256(case.encode()).hexdigest()


def _lowest(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda case: (scores[case], case))[:MOST_WORST]
