"""Files of runs, read where they lie or fetched from a server, many at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from pipeline.comparison.store import Store, TrackedRun
from pipeline.errors import InputError

THREADS = 8
MOST_BYTES = 100_000_000  # of a table of cases, a data list or pictures: a hundred times what large ones have
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def read_artifact(store: Store, run: TrackedRun, path: str) -> bytes | None:
    """Return the content of one of a run's files, None where it has none of that name; a huge one is an InputError."""
    folder = local_folder(run)
    if folder is not None:
        file = folder / path
        return _content(file) if file.is_file() else None
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            return _content(Path(store.client.download_artifacts(run.id, path, temporary)))
        except (MlflowException, OSError):  # most stores tell a missing file only by failing
            return None


def _content(file: Path) -> bytes:
    if (size := file.stat().st_size) > MOST_BYTES:
        raise InputError(f"its file {file.name} has {size} bytes, more than any that is written here")
    return file.read_bytes()


def local_folder(run: TrackedRun) -> Path | None:
    """Return the folder of a run's artifacts, None where a server keeps them."""
    address = urlparse(run.artifact_uri)
    if address.scheme not in ("", "file"):
        return None
    return Path(unquote(address.path)) if address.scheme else Path(run.artifact_uri)


def at_once(question: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Return the answers to a question about each item, in order, a few asked at a time."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(question, items))
