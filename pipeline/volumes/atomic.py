"""Files that appear under their final name whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipeline.errors import InputError

LONGEST_NAME = 255  # bytes, on every disk in use
FULL_BELOW = 64 * 1024  # bytes left on a disk that counts as full: some writers lose the system's error number
FULL = {errno.ENOSPC, errno.EDQUOT}
BARRED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden path in the same folder, and move it to `path` once the block has ended without an error.

    Until the move the earlier content of `path` stands untouched; a failure in the block removes the hidden file. It
    ends as `path` does (``.nii.gz``), because writers choose their format by the suffix.

    Args:
        path: the final name; missing parent folders are made.
    """
    final = Path(path)
    temporary = final.with_name(_hidden_name(final.name))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, final)
    except BaseException as error:
        problem = _problem(error, temporary, final)  # asked before the hidden file gives its room back
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if problem is not None:
            raise problem from error
        raise
    _remove_leftovers(final)
    with suppress(OSError):  # some network file systems cannot sync a folder
        _sync(final.parent)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` through `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path` through `atomic_path`."""
    atomic_write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write `content` as indented JSON to `path` through `atomic_path`; NaN and infinity, which JSON lacks, raise."""
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _hidden_name(name: str) -> str:
    # A name may have 255 bytes, so only the end of a long one is kept: 5 + 7 (pid) + 1 + 8 + 1 + 200 = 222 bytes.
    return f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{_kept(name)}"


def _remove_leftovers(final: Path) -> None:
    """Remove the hidden files of this name that killed processes left, with what a writer appended to them."""
    leftover = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}-" + re.escape(_kept(final.name)) + r"(\.\w+)?")
    for other in final.parent.iterdir():
        match = leftover.fullmatch(other.name)
        if match and not psutil.pid_exists(int(match[1])):
            other.unlink(missing_ok=True)


def _kept(name: str) -> str:
    return os.fsencode(name)[-200:].decode(errors="ignore")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full(folder: Path) -> bool:
    usage = shutil.disk_usage(folder)
    return usage.total > 0 and usage.free < FULL_BELOW  # what is no disk, such as /proc, has no room by nature


def _problem(error: BaseException, temporary: Path, final: Path) -> InputError | None:
    """Return what to tell the user where the place itself is at fault: full, barred, or the name too long for it."""
    if not isinstance(error, OSError | RuntimeError):
        return None
    folder, behind = final.parent, _behind(error)
    number = behind.errno if behind is not None else None
    if number in FULL or (folder.is_dir() and _is_full(folder)):
        remedy = "free space on this disk or choose another folder"
        if not _has_room_for_names(folder):
            return InputError("disk full: it has no room for another file's name", file=final, remedy=remedy)
        return InputError("disk full", file=final, remedy=remedy)
    if number == errno.ENAMETOOLONG:
        return InputError("the name is too long for this disk", file=final, remedy="choose a shorter one")
    named = behind.filename if behind is not None else None
    is_here = named is None or Path(os.fsdecode(named)) in (temporary, *temporary.parents)
    if (number in BARRED and is_here) or (folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)):
        why = os.strerror(number) if number in BARRED else "no permission"
        remedy = "correct the folder's permissions, or choose another one"
        return InputError(f"nothing can be written here ({why})", file=final, remedy=remedy)
    return None


def _behind(error: BaseException) -> OSError | None:
    """Return what the system said: torch, for one, goes on to another error of its own."""
    chain = (error, error.__cause__, error.__context__)
    return next((one for one in chain if isinstance(one, OSError)), None)


def _has_room_for_names(folder: Path) -> bool:
    disk = os.statvfs(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
    return disk.f_files == 0 or disk.f_favail > 0  # some file systems count no inodes
