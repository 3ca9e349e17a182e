"""Where a zarr store lies: a folder of this machine, or whatever fsspec opens by a URL."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE

URL = re.compile(r"([a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
SQUASHED = re.compile(r"((?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)
ON_THIS_MACHINE = re.compile(r"(file|local)://", re.IGNORECASE)
MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of them lies in each folder of a store
STORE_SUFFIXES = (".ome.zarr", ".zarr")  # in lower case
METADATA_LIMIT = 1 << 26  # bytes; a plate of 1536 wells with nine fields takes about a million
SCALE = "install the packages for large volumes: pip install unet-pipeline[scale]"


@dataclass(frozen=True)
class Place:
    """A zarr store, or a group in one.

    Args:
        root: a folder, or a URL without a slash at its end.
        group: the path from there to the group, "" for the root itself.
    """

    root: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.root}/{self.group}" if self.group else self.root

    @property
    def is_url(self) -> bool:
        """Whether the store is reached by a URL."""
        return url_of(self.root) is not None

    def below(self, path: str) -> Place:
        """Return a group below this one; a path that leads out of it raises."""
        parts = [part for part in path.split("/") if part]
        if not parts or ".." in parts or "." in parts or path.startswith("/"):
            reason = f"its metadata name the path '{path}', which does not lie within it"
            raise InputError(reason, file=str(self), remedy=RESTORE)
        return Place(self.root, "/".join(([self.group] if self.group else []) + parts))

    def read(self, name: str) -> bytes | None:
        """Return a small file of the group, None where there is none."""
        content = self._read(name)
        if content is not None and len(content) > METADATA_LIMIT:
            raise InputError(f"its '{name}' has more than {METADATA_LIMIT} bytes", file=str(self), remedy=RESTORE)
        return content

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return what a JSON file of the group holds, None where there is none."""
        content = self.read(name)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"its '{name}' is no JSON", file=str(self), remedy=RESTORE) from error
        if not isinstance(found, dict):
            raise InputError(f"its '{name}' holds no fields", file=str(self), remedy=RESTORE)
        return found

    def store(self) -> Any:
        """Return the store in zarr's words, for reading, with the group as its root."""
        library("zarr")
        from zarr.storage import FsspecStore, LocalStore

        if self.is_url:
            library("fsspec")
            return FsspecStore.from_url(str(self), read_only=True)
        return LocalStore(str(self), read_only=True)

    def _read(self, name: str) -> bytes | None:
        try:
            if not self.is_url:
                with open(os.path.join(str(self), name), "rb") as stream:
                    return stream.read(METADATA_LIMIT + 1)
            fs, path = library("fsspec").core.url_to_fs(f"{self}/{name}")
            with fs.open(path, "rb") as stream:
                return bytes(stream.read(METADATA_LIMIT + 1))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def place_of(source: str | os.PathLike[str]) -> Place:
    """Return the store that a path or a URL names; ``file://`` is a folder like any other."""
    url = url_of(source)
    return Place(os.path.abspath(path_of(source)) if url is None else url)


def url_of(source: str | os.PathLike[str]) -> str | None:
    """Return a URL without a slash at its end, None for a path of this machine.

    A `Path` has made one slash of two: "s3:/bucket" is taken for a URL where there is no such path.
    """
    text = os.fspath(source)
    if ON_THIS_MACHINE.match(text):
        return None
    if not URL.match(text) and (found := SQUASHED.match(text)) and not os.path.lexists(text):
        text = f"{found[1]}://{text[found.end() :]}"
    return text.rstrip("/") if URL.match(text) else None


def path_of(source: str | os.PathLike[str]) -> Path:
    """Return the path of this machine that a text names, which may begin with ``file://``."""
    return Path(ON_THIS_MACHINE.sub("", os.fspath(source), count=1))


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a zarr store, or claims to be one by its name."""
    if not os.path.isdir(folder):
        return False
    return folder.name.lower().endswith(".zarr") or any(os.path.isfile(folder / mark) for mark in MARKS)


def library(name: str) -> Any:
    """Import a package of the extra `scale`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"the package {name} is not installed", remedy=SCALE) from error


@contextmanager
def naming(place: Place) -> Iterator[None]:
    """Turn whatever a store makes zarr or a file system raise into an error that names the store."""
    try:
        yield
    except InputError as error:
        raise InputError(error.reason, case=error.case, file=error.file or str(place), remedy=error.remedy) from error
    except MemoryError as error:
        raise InputError("needs more memory than is free", file=str(place), remedy="read smaller boxes") from error
    except Exception as error:
        last_line = (str(error).strip() or "no further detail").splitlines()[-1].strip()
        remedy = "see whether the store can be reached" if place.is_url else RESTORE
        reason = f"cannot be read ({type(error).__name__}: {last_line})"
        raise InputError(reason, file=str(place), remedy=remedy) from error
