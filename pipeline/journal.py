"""A run's tracking on disk: entries in the order they came, and how many of them the store has."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import InputError

logger = logging.getLogger(__name__)

NAME = "mlflow.journal"
EXAMPLE = "mlflow.example.npy"  # one input of the network, which an MLflow model keeps
CHUNK = 1 << 16  # bytes read at once
STARTS_OVER_AT = 1 << 20  # bytes from which on a journal that holds no news is cut to its first line
MARK = "written"


class BusyError(InputError):
    """What a run leaves for its store is another process's to write."""


class Entry(NamedTuple):
    """What is to be done in the store, and the offset in bytes where its line ends."""

    end: int
    content: dict[str, Any]


class Journal:
    """A file of JSON lines: entries, and marks of the offset up to which the store has them.

        {"kind": "metrics", "time": 1767225600000, "step": 7, "values": {"train/loss": 0.5}}
        {"written": 85}

    A line reaches the operating system at once and whole, so that a killed process loses none; what a crash of the
    machine leaves of the last line is cut off. A process that writes has the file to itself.

    Args:
        file: made if it is not there; without one, a nameless file that nobody finds again.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.facts: dict[str, Any] = {}
        self.written = self.end = self.count = self._header = 0
        self._fd = _open(file)
        try:
            self._recover()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, content: Mapping[str, Any]) -> None:
        """Add an entry; it is on the disk whole, or an OSError says that it is not there."""
        end = self._write(content)
        if not self._header and content.get("kind") == "open":
            self._header = end
        self.count += 1

    def waiting(self, limit: int) -> list[Entry]:
        """Return the first entries that the store does not have."""
        return list(islice(self._entries(self.written), limit))

    def entries(self) -> Iterator[Entry]:
        """Yield all entries that the file still holds."""
        return self._entries(0)

    def confirm(self, entries: list[Entry], facts: Mapping[str, Any]) -> None:
        """Note that the store has the first waiting entries, and what it said: the run's id."""
        self.written, self.count = entries[-1].end, self.count - len(entries)
        self.facts |= facts
        if not self.count and self.end > STARTS_OVER_AT:
            os.ftruncate(self._fd, self._header)
            self.written = self.end = self._header
            facts = self.facts
        try:
            self._write({MARK: self.written, **facts})
        except OSError as error:  # the store has the entries; at worst it is sent them once more, and knows them
            logger.debug("no mark in the journal: %s", error)

    def close(self) -> None:
        """Let another process write."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def delete(self) -> None:
        """Remove the file, of which the store has everything."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file.with_name(EXAMPLE).unlink(missing_ok=True)
        self.close()

    def _write(self, content: Mapping[str, Any]) -> int:
        """Append a line and return where it ends; a full disk leaves no half of one."""
        line = json.dumps(content).encode() + b"\n"
        try:
            if os.write(self._fd, line) < len(line):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self._fd, self.end)
            raise
        self.end += len(line)
        return self.end

    def _recover(self) -> None:
        """Cut a torn last line, and find what the store has by the last mark."""
        self.end = self.written = 0
        self.facts = {}
        for end, line in self._lines(0):
            content = _parse(line)
            if not self.end and content.get("kind") == "open":
                self._header = end
            if MARK in content:
                self.written = content.pop(MARK)
                self.facts |= content
            self.end = end
        os.ftruncate(self._fd, self.end)
        self.count = sum(1 for _ in self._entries(self.written))

    def _entries(self, start: int) -> Iterator[Entry]:
        for end, line in self._lines(start):
            content = _parse(line)
            if "kind" in content:
                yield Entry(end, content)

    def _lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines from an offset on, and where each ends."""
        rest = b""
        while chunk := os.pread(self._fd, CHUNK, start + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                start += len(line) + 1
                yield start, line


def _open(file: Path | None) -> int:
    """Open a file to read and append, for this process alone."""
    flags = os.O_RDWR | os.O_APPEND
    if file is None:
        descriptor, name = tempfile.mkstemp(prefix="mlflow-")
        os.close(descriptor)
        descriptor = os.open(name, flags)
        os.unlink(name)
        return descriptor
    try:
        descriptor = os.open(file, flags | os.O_CREAT, 0o666)
    except OSError as error:
        reason = f"the journal cannot be opened ({error.strerror})"
        raise InputError(reason, file=file, remedy="correct the folder's permissions, or make room") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BusyError("another process writes this journal", file=file, remedy="wait for it, or stop it") from None
    return descriptor


def _parse(line: bytes) -> dict[str, Any]:
    """Return what a line says; one that a crash has damaged says nothing."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
