"""Small pictures of the same cases in every evaluation, so that runs can be looked at side by side."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.atomic import atomic_path

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
MOST_CASES = 24  # that every run keeps, whatever it makes of them
MOST_WORST = 3
MOST_SIDE = 224  # pixels: 27 noisy slices of 224 x 224 are 1.4 MB
MOST_BYTES = 2_000_000
VERSION = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{'descr': '([|<>](?:u1|f8|U[0-9]{1,6}))', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,40})\), \} *\n"
)
# What reading a damaged archive may raise: a zip has many places where one byte means another way of reading on.
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
DAMAGE = (*ZIP_DAMAGE, ValueError, LookupError, TypeError, OverflowError, MemoryError)


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


def read_slices(content: bytes, source: str = "") -> dict[str, Slice]:
    """Return the slices of an archive by case; of one that is damaged, or none of ours, none, and a warning.

    What each part says of itself is held against what is written here before its data is unpacked: memory holds what
    an archive of ours can hold, whatever this one claims.

    Args:
        content: of the file.
        source: whose it is, for the warning.
    """
    try:
        return _read(content)
    except DAMAGE as error:
        whose = f"{source}: " if source else ""
        logger.warning(f"{whose}its pictures of cases are damaged ({type(error).__name__}: {error}): shown without")
        return {}


def _read(content: bytes) -> dict[str, Slice]:
    if len(content) > MOST_BYTES or not content.startswith(b"PK"):
        raise ValueError("no archive of slices")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        found = {}
        for position, case in enumerate(_part(archive.zip, "cases", "U", 1).tolist()):
            score = _part(archive.zip, f"{position}/score", "f", 0)
            planes = [_part(archive.zip, f"{position}/{name}", "u1", 2) for name in Slice._fields[1:]]
            if len({plane.shape for plane in planes}) > 1:
                raise ValueError(f"planes of {case!r} with several shapes")
            found[case] = Slice(float(score), *planes)
        return found


def _part(archive: zipfile.ZipFile, name: str, kind: str, axes: int) -> NDArray[Any]:
    """Return an array of an archive, if it is of this kind and has so many axes, none of them empty or too long."""
    if archive.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in another way")  # in one that unpacks all of it at once
    with archive.open(f"{name}.npy") as stream:
        begin = stream.read(10)
        described = HEADER.fullmatch(stream.read(int.from_bytes(begin[8:], "little")))
        if begin[:8] != VERSION or described is None or kind not in (dtype := described[1].decode()):
            raise ValueError(f"{name} is no array as they are written here")
        shape = [int(length) for length in described[3].replace(b",", b" ").split()]
        longest = MOST_SIDE if axes == 2 else MOST_CASES + MOST_WORST
        if len(shape) != axes or (axes == 2 and 0 in shape) or max(shape, default=0) > longest:
            raise ValueError(f"{name} has the shape {tuple(shape)}")
        size = np.dtype(dtype).itemsize * math.prod(shape)
        if size > MOST_BYTES or len(data := stream.read(size + 1)) != size:  # to its end, where its checksum is
            raise ValueError(f"{name} does not hold {size} bytes")
    order: Literal["F", "C"] = "F" if described[2] == b"True" else "C"
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _archive(slices: Mapping[str, Slice]) -> bytes:
    arrays: dict[str, Any] = {"cases": np.array(list(slices), dtype=str)}
    for position, kept in enumerate(slices.values()):
        arrays |= {f"{position}/{name}": np.asarray(value) for name, value in kept._asdict().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _rank(case: str) -> str:
    return hashlib.sha256(case.encode()).hexdigest()


def _lowest(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda case: (scores[case], case))[:MOST_WORST]
