"""Whether a worker's world is that of the client: the same packages, files, and folder for results."""

from __future__ import annotations

import os
import platform
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pipeline
from pipeline.errors import InputError
from pipeline.provenance import digest

PACKAGES = ("dask", "distributed", "torch", "monai", "numpy")
SHARED = "the path must lead to the same files on all machines: use a file system that they share"


@cache
def versions() -> dict[str, str]:
    """Return what must be equal for equal results, without loading it; a build's own mark ("+cpu") need not be."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "unet-pipeline": pipeline.__version__}
    for name in PACKAGES:
        try:
            found[name] = re.sub(r"\+.*", "", version(name))
        except PackageNotFoundError:
            found[name] = "none"
    return found


@dataclass(frozen=True)
class World:
    """What the client has, for a worker to compare.

    Args:
        versions: of packages.
        contents: the digest of each file that must be the same.
        present: files and folders that must be there.
    """

    versions: Mapping[str, str] = field(default_factory=versions)
    contents: Mapping[str, str] = field(default_factory=dict)
    present: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise an `InputError` for the first thing that is another one on this machine."""
        here = versions()
        for name, wanted in self.versions.items():
            if here.get(name) != wanted:
                reason = f"there is {name} {here.get(name)}, and here {wanted}"
                raise InputError(reason, remedy="install the same environment for the workers as here")
        for file, wanted in self.contents.items():
            try:
                same = digest(file) == wanted
            except OSError as error:
                raise InputError(f"they cannot read it ({error.strerror})", file=file, remedy=SHARED) from error
            if not same:
                raise InputError("they see another file by this name", file=file, remedy=SHARED)
        for path in self.present:
            if not os.path.exists(path):
                raise InputError("they do not see it", file=path, remedy=SHARED)


def seen(files: Iterable[str | Path]) -> dict[str, str]:
    """Return the digests of files, by absolute path."""
    return {os.path.abspath(file): digest(file) for file in files}


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """Leave a file in a folder, by which another machine can tell that it sees the same folder."""
    mark = folder / f"seen-by-{socket.gethostname()}-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(secrets.token_hex(16))
    except OSError as error:
        reason = f"nothing can be written here ({error.strerror})"
        raise InputError(reason, file=folder, remedy="choose another output folder") from error
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
