"""What the files of a case hold, as digests: known since they were looked at, so that a result can name its data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline.volumes.reading import files_of

DIGITS = 16  # of a case's digest in a table

_seen: dict[str, str] = {}


def look_at(file: str | PathLike[str], spatial_dims: int) -> str:
    """Return the SHA-256 of the bytes of all files that `read_volume` reads for `file`, and remember it by its path.

    Their names do not count, nor does their order: the slices of a DICOM series may be called as one likes.
    """
    parts = sorted(_digest(part) for part in files_of(file, spatial_dims))
    _seen[str(file)] = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return _seen[str(file)]


def case_digest(record: Mapping[str, Any]) -> str | None:
    """Return 16 digits for what the files of a case hold, None where this process has not looked at all of them.

    Args:
        record: "image", a path or one for each channel, and "label", if it has one.
    """
    image = record["image"]
    names = [*([image] if isinstance(image, str) else image), *([record["label"]] if "label" in record else [])]
    parts = [_seen.get(str(name), "") for name in names]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:DIGITS] if all(parts) else None


def data_digest(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Return one digest for all cases with their ids, in whatever order; None where one is not known, or there is none.

    Args:
        records: "id", and what `case_digest` takes.
    """
    cases = sorted((str(record["id"]), case_digest(record) or "") for record in records)
    known = cases and all(digest for _, digest in cases)
    return hashlib.sha256(repr(cases).encode()).hexdigest() if known else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
