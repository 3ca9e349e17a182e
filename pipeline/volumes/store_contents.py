"""What a zarr store holds, as one digest that is known without reading its voxels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator
from itertools import islice
from typing import Any

from pipeline.volumes.zarr_place import MARKS, Place, library, naming, place_of

MOST = 5_000_000  # files of a folder that are looked at, about a minute
MOST_REMOTE = 200_000  # objects behind a URL: a store tells a thousand in an answer
UNLISTED = ("http", "https")  # servers that have no list of what they hold
LABELS = "labels"  # the folder of an image where its label maps lie
STAMPS = ("etag", "ETag", "md5Hash", "LastModified", "last_modified", "mtime", "created")  # what file systems tell


def store_state(source: str | os.PathLike[str], labels: bool = False, most: int | None = None) -> list[Any]:
    """Return a store's name, the number of its files, and a SHA-256 that changes when one of them does.

    Metadata count by their bytes, chunks by path, size and time (or the digest that a remote file system keeps), for
    the voxels of a store may be more than anyone can read twice. A copy is another store: its files have times of
    their own. Behind plain http nobody lists the chunks, so that there the root's metadata alone decide (`is_listed`);
    and of a very large store only its first files count, in the order of their names: then the number says how many
    these were.

    Args:
        source: a folder or a URL.
        labels: whether label maps that lie in it count; not in an image, for results are written there.
        most: files that are looked at; 5,000,000 of a folder and 200,000 behind a URL unless given.
    """
    place = place_of(source)
    with naming(place):
        found = hashlib.sha256()
        count = 0
        limit = most if most is not None else MOST_REMOTE if place.is_url else MOST
        for name, size, stamp in islice(_files(place, () if labels else (LABELS,)), limit):
            content = _content(place, name) if name.rpartition("/")[2] in MARKS else stamp
            found.update(f"{name}\0{size}\0{content}\n".encode(errors="surrogateescape"))
            count += 1
        return [str(place).rpartition("/")[2], count, found.hexdigest()]


def is_listed(source: str | os.PathLike[str]) -> bool:
    """Tell whether a change of a store's voxels can be seen from outside."""
    place = place_of(source)
    return not place.is_url or place.root.split("://")[0].split("::")[-1].lower() not in UNLISTED


def _content(place: Place, name: str) -> str:
    return hashlib.sha256(place.read(name) or b"").hexdigest()


def _files(place: Place, but: Container[str]) -> Iterator[tuple[str, int, str]]:
    if not place.is_url:
        yield from _of_folder(str(place), "", but)
    elif not is_listed(place.root):
        yield from ((mark, len(content), "") for mark in MARKS if (content := place.read(mark)) is not None)
    else:
        yield from _of_url(place, but)


def _of_folder(folder: str, path: str, but: Container[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the files below a folder in the order of their names, with only one folder's names in memory a level."""
    with os.scandir(folder) as entries:
        known = sorted((entry.name, entry.is_dir()) for entry in entries if _counts(entry.name, but))
    for name, is_folder in known:
        place = os.path.join(folder, name)
        if is_folder:
            yield from _of_folder(place, f"{path}{name}/", but)
        else:
            state = os.stat(place)
            yield f"{path}{name}", state.st_size, str(state.st_mtime_ns)


def _of_url(place: Place, but: Container[str]) -> Iterator[tuple[str, int, str]]:
    fs, top = library("fsspec").core.url_to_fs(str(place))
    fs.invalidate_cache()
    for folder, folders, files in fs.walk(top, detail=True):
        for name in [name for name in folders if not _counts(name, but)]:
            del folders[name]
        for name in sorted(name for name in files if _counts(name, but)):
            told = files[name]
            stamp = next((str(told[key]) for key in STAMPS if told.get(key) is not None), "")
            below = folder[len(top) :].strip("/")
            yield f"{below}/{name}" if below else name, int(told.get("size") or 0), stamp


def _counts(name: str, but: Container[str]) -> bool:
    """Tell what belongs to a store from locks, from what is being written at the moment, and from what is left out."""
    hidden = name.startswith(".") and name not in MARKS
    return not hidden and not name.endswith(".partial") and name not in but
