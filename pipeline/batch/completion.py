"""Which cases of a batch are done: by digests of inputs, model and outputs, never because a file is there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pipeline
from pipeline.batch.input_files import RECORDS
from pipeline.batch.inputs import Input
from pipeline.errors import InputError, visible
from pipeline.provenance import digest
from pipeline.volumes.atomic import atomic_write_bytes
from pipeline.volumes.store_contents import is_listed, store_state

logger = logging.getLogger(__name__)


class Completion:
    """The records of an output folder, one file for each finished case.

    A record is written after its outputs and appears whole or not at all, so that a batch may be killed at any moment,
    and several shards may share an output folder. It counts only while all that it names is the same to the byte: the
    files that the case is read from, the model, and every output. Of a zarr store, which may be larger than anyone
    reads twice, `store_state` says what has to be the same.

    Args:
        output_dir: where the outputs lie.
        model: all else that decides on an output, such as `{"weights": digest(file), "settings": digest_of(settings)}`;
            the version of this package is added.
    """

    def __init__(self, output_dir: str | os.PathLike[str], model: Mapping[str, str]) -> None:
        self.output_dir = Path(output_dir)
        self._model = {**model, "pipeline": pipeline.__version__}
        self._begun: dict[str, list[list[Any]]] = {}

    def begin(self, entry: Input) -> None:
        """Note the digests of a case's files before they are read, so that a later change of theirs is found.

        Files that cannot be read are left to the reading, which says what is wrong.
        """
        self._begun.pop(entry.case, None)
        try:
            parts = [_state(part, part.name) for part in entry.parts]
            self._begun[entry.case] = parts + ([store_state(entry.store)] if entry.store is not None else [])
        except (InputError, OSError):
            return

    def identity(self, entry: Input) -> dict[str, Any]:
        """Return what decides on the results of a case that was begun: its input and the model."""
        return {"inputs": self._begun.get(entry.case), "model": self._model}

    def is_complete(self, entry: Input) -> bool:
        """Tell whether nothing has to be done for a case; begins it."""
        return self.why_incomplete(entry) is None

    def why_incomplete(self, entry: Input) -> str | None:
        """Return why a case has to be done (again), in words for a log, or None for a complete one; begins it."""
        self.begin(entry)
        record = self._load(entry.case)
        if record is None:
            return "it has no record"
        if record["model"] != self._model:
            keys = sorted(record["model"].keys() | self._model.keys())
            return f"changed: {', '.join(key for key in keys if record['model'].get(key) != self._model.get(key))}"
        if record["inputs"] != self._begun.get(entry.case):
            return "its input has changed"
        for state in record["outputs"]:
            try:
                same = state == _state(self.output_dir / state[0], state[0])
            except (InputError, OSError):
                same = False
            if not same:
                return f"its output '{state[0]}' is missing or has changed"
        if entry.store is not None and not is_listed(entry.store):
            reason = "its server lists no chunks, so only its metadata were compared; if voxels have changed, predict"
            logger.warning("case '%s': %s it into another folder", visible(entry.case), reason)
        return None

    def result(self, entry: Input) -> dict[str, Any]:
        """Return what `mark_complete` was told of a case, nothing where there is no record."""
        return (self._load(entry.case) or {}).get("result", {})

    def leftovers(self, entry: Input) -> list[Path]:
        """Return the outputs that an earlier batch recorded for a case and that still lie there."""
        recorded = (self._load(entry.case) or {}).get("outputs", [])
        return [place for name, *_ in recorded if (place := self.output_dir / name).exists()]

    def mark_complete(
        self, entry: Input, outputs: Iterable[str | os.PathLike[str]], result: Mapping[str, Any] | None = None
    ) -> None:
        """Record that a case which was begun is done, once its outputs are written.

        Args:
            entry: the case.
            outputs: its files, or the folders of zarr stores.
            result: what else is to be known of it when the batch is resumed, as far as JSON can say it.
        """
        files = [Path(output) for output in outputs]
        if not files or entry.case not in self._begun:
            raise ValueError(f"case '{entry.case}' has no output or was not begun")
        record = {
            "case": entry.case,
            "model": self._model,
            "inputs": self._begun.pop(entry.case),
            "outputs": [_state(file, os.path.relpath(file, self.output_dir)) for file in files],
            "result": dict(result or {}),
        }
        body = json.dumps(record, sort_keys=True).encode()
        atomic_write_bytes(self._file(entry.case), _sealed(body))

    def _load(self, case: str) -> dict[str, Any] | None:
        """Return a case's record; None where there is none, or one that is damaged or cannot be read."""
        try:
            content = self._file(case).read_bytes()
        except OSError:
            return None
        body = content.partition(b"\n")[0]
        return json.loads(body) if content == _sealed(body) else None

    def _file(self, case: str) -> Path:
        # An id may be longer than a file name, and hold slashes.
        return self.output_dir / RECORDS / f"{hashlib.sha256(os.fsencode(case)).hexdigest()[:32]}.json"


def digest_of(settings: object) -> str:
    """Return the SHA-256 of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _state(file: Path, name: str) -> list[Any]:
    if file.is_dir():  # a label map as a zarr store
        return [name, *store_state(file, labels=True)[1:]]
    return [name, file.stat().st_size, digest(file)]


def _sealed(body: bytes) -> bytes:
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"
