"""The files that a batch is looked for in: those of a folder, behind a pattern, or of a list of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.volumes.dicom import DICOM_SUFFIXES
from pipeline.volumes.dicom_file import is_dicom
from pipeline.volumes.reading import SUFFIXES

RECORDS = ".completed"  # folder that marks an output folder; `pipeline.batch.completion` keeps its records there


@dataclass(frozen=True)
class FoundFiles:
    """Files of any kind, each once.

    Args:
        files: in the order of their paths, or of the list.
        top: the folder that outputs are placed relative to.
        named: those of `files` that the user named one by one.
        barred: folders that could not be looked into, with the reason.
    """

    files: tuple[Path, ...]
    top: Path
    named: frozenset[Path] = frozenset()
    barred: Mapping[Path, str] = field(default_factory=dict)


def find_files(source: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None) -> FoundFiles:
    """Find the files of a batch; hidden ones, `output_dir` and the output folders of earlier batches are left out.

    Args:
        source: a folder, a pattern, a ``.txt`` list or one image, as for `pipeline.batch.inputs.find_inputs`.
        output_dir: where the results will go.
    """
    path = Path(source)
    output = None if output_dir is None else Path(output_dir).resolve()
    if path.is_dir():
        if path.resolve() == output:
            reason = "the output folder is the input folder, so that results would be taken for inputs"
            raise InputError(reason, file=path, remedy="choose another output folder")
        return _found([path], output, path)
    if path.is_file():
        named = _read_list(path) if path.suffix.lower() == ".txt" else [path]
        if named == [path] and not has_image_suffix(path) and not may_be_dicom(path):
            remedy = "name a folder, a pattern, an image, or a .txt file of one path per line"
            raise InputError("is neither an image nor a list of paths", file=path, remedy=remedy)
        return _found(named, output, path.parent, frozenset(named))
    if not glob.has_magic(str(source)):
        raise InputError("the input does not exist", file=path, remedy="correct the path")
    top = _above_magic(path)
    matches = [Path(match) for match in sorted(glob.glob(str(source), recursive=True))]
    wanted = [match for match in matches if not any(_is_left_out(folder, output) for folder in _folders(match, top))]
    return _found(wanted, output, top)


def has_image_suffix(file: Path) -> bool:
    """Tell whether a file claims by its name to be an image of a format other than DICOM."""
    return file.name.lower().endswith(SUFFIXES)


def may_be_dicom(file: Path) -> bool:
    """Tell whether a file is a DICOM file, or claims to be one by its name."""
    if has_image_suffix(file):
        return False
    try:
        return file.name.lower().endswith(DICOM_SUFFIXES) or (file.is_file() and is_dicom(file))
    except OSError:  # not ours to read
        return False


def _found(paths: Iterable[Path], output: Path | None, top: Path, named: frozenset[Path] = frozenset()) -> FoundFiles:
    """Replace folders by the files below them."""
    found: list[Path] = []
    barred: dict[Path, str] = {}

    def note(error: OSError) -> None:
        barred[Path(error.filename)] = str(error.strerror)

    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        for folder, names, files in os.walk(path, onerror=note, followlinks=True):
            here = Path(folder)
            names[:] = sorted(name for name in names if not _is_left_out(here / name, output))
            found += [here / name for name in sorted(files) if not name.startswith(".")]
    return FoundFiles(tuple(dict.fromkeys(found)), top, named, barred)


def _is_left_out(folder: Path, output: Path | None) -> bool:
    real = folder.resolve()
    in_a_circle = folder.is_symlink() and folder.parent.resolve().is_relative_to(real)
    if folder.name.startswith(".") or real == output or in_a_circle:
        return True
    try:
        return (folder / RECORDS).is_dir()
    except PermissionError:  # the walk will say it
        return False


def _read_list(file: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError("is no text in UTF-8", file=file, remedy="write one path per line") from error
    places = {line: Path(os.path.normpath(file.parent / line)) for line in lines if line}
    paths = [place for line, place in places.items() if not line.startswith("#") or os.path.lexists(place)]
    if not paths:
        raise InputError("the list is empty", file=file, remedy="write one path per line")
    return list(dict.fromkeys(paths))


def _above_magic(pattern: Path) -> Path:
    """Return the folder before the first part with a sign of a pattern."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _folders(match: Path, top: Path) -> list[Path]:
    """Return the folders between `top` and a match, itself included where it is one."""
    above = [folder for folder in match.parents if top in folder.parents]
    return [match, *above] if match.is_dir() and match != top else above
