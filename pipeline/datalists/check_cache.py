"""What earlier checks found, kept by content: a case is looked at again when anything that matters has changed."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.datalists.case_findings import CaseFindings, Oddity
from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_write_text
from pipeline.volumes.contents import look_at

FORMAT = 1  # of the cache's file
READERS = ("nibabel", "numpy", "pillow", "pydicom", "SimpleITK", "tifffile")


class CheckCache:
    """The findings of one list in one folder, in one JSON file; a file that is damaged or cannot be had counts as none.

    Args:
        name: the list's name.
        dataset_dir: the folder that its paths are relative to.
    """

    def __init__(self, name: str, dataset_dir: str | PathLike[str]) -> None:
        self._file, self._changed = _file_for(name, dataset_dir), False
        self._entries = _load(self._file)

    def get(self, case: Case, split: str, key: str | None) -> CaseFindings | None:
        """Return what was found in a case of this key, or None.

        Args:
            case: the case.
            split: where it serves now, which may have changed.
            key: from `content_key`.
        """
        entry = self._entries.get(case.id)
        if entry is None or key is None or entry["key"] != key:
            return None
        found = dict(entry["found"])
        numbers = found["fingerprint"]
        found["fingerprint"] = numbers and Fingerprint.from_document(numbers | {"case": case.id, "split": split})
        found["oddities"] = [Oddity(*words) for words in found["oddities"]]
        return CaseFindings(**found)

    def put(self, case: Case, key: str | None, found: CaseFindings) -> None:
        """Remember a case without problems; one with problems is read each time, for they may lie in the machine."""
        if key is not None and not found.problems:
            self._entries[case.id] = {"key": key, "found": asdict(found)}
            self._changed = True

    def save(self) -> None:
        """Write the file, by rename, if there is something new and it can be written."""
        if self._changed and self._file is not None:
            text = json.dumps(self._entries)
            with suppress(OSError, InputError):
                atomic_write_text(self._file, json.dumps({"digest": _digest_text(text), "cases": text}))


def content_key(case: Case, data_list: DataList, root: Path) -> str | None:
    """SHA-256 of all that the findings depend on: bytes of the files, the list's words on them, the code that reads.

    None where a file cannot be read.
    """
    names, dims = (*case.images, *([] if case.label is None else [case.label])), data_list.spatial_dims
    try:
        files = [look_at(root / name, dims) for name in names]
    except (InputError, OSError):
        return None
    words = [dims, data_list.label_kind, data_list.classes, data_list.channels]
    return _digest_text(json.dumps([FORMAT, _code(), words, case.images, case.label, files]))


@cache
def _code() -> list[str]:
    """The versions of this package and of the readers, and a digest of the sources that look at a file."""
    sources = [*sorted((Path(__file__).parents[1] / "volumes").glob("*.py"))]
    sources += [Path(__file__).with_name(name) for name in ("case_findings.py", "fingerprint.py", "check_cache.py")]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes() if source.is_file() else b"")
    return [__version__, digest.hexdigest(), *(version(reader) for reader in READERS)]


def _file_for(name: str, dataset_dir: str | PathLike[str]) -> Path | None:
    try:
        top = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        place = str(Path(dataset_dir).resolve())
    except (RuntimeError, OSError):  # there is no home
        return None
    return top / "unet-pipeline" / "checks" / f"{_digest_text(json.dumps([name, place]))[:32]}.json"


def _load(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None:
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return json.loads(content["cases"]) if _digest_text(content["cases"]) == content["digest"] else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
