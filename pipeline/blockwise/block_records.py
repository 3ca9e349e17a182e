"""Which blocks of a volume are done: a record for each, that counts only for the same input, model and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pipeline
from pipeline.batch.completion import digest_of
from pipeline.volumes.atomic import atomic_write_bytes


class BlockRecords:
    """Facts by name in a folder of an identity's own, each written whole or not at all; several processes may share it.

    Args:
        folder: where the folders of all identities lie.
        identity: all that decides on a label, such as digests of the input, the weights and the settings; the version
            of this package is added.
    """

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any]) -> None:
        self.digest = digest_of({**identity, "pipeline": pipeline.__version__})
        self.folder = Path(folder) / self.digest[:32]

    def load(self, name: str) -> dict[str, Any] | None:
        """Return what was kept; None where there is nothing, or what is damaged."""
        try:
            body, _, seal = (self.folder / f"{name}.json").read_bytes().partition(b"\n")
        except OSError:
            return None
        return json.loads(body) if seal.strip() == _sealed(body) else None

    def keep(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write facts that JSON can say; floats keep every bit."""
        body = json.dumps(dict(facts), sort_keys=True, allow_nan=False).encode()
        atomic_write_bytes(self.folder / f"{name}.json", body + b"\n" + _sealed(body) + b"\n")


def _sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
