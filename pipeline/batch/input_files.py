"""The files that a batch is looked for in: those of a folder, behind a pattern, or of a list of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import InputError
from pipeline.volumes.dicom import DICOM_SUFFIXES
from pipeline.volumes.dicom_file import is_dicom
from pipeline.volumes.reading import SUFFIXES
from pipeline.volumes.zarr_place import is_store, path_of, url_of

RECORDS = ".completed"  # folder that marks an output folder; `pipeline.batch.completion` keeps its records there


@dataclass(frozen=True)
class FoundFiles:
    """Files of any kind, each once.

    Args:
        files: in the order of their paths, or of the list.
        top: the folder that outputs are placed relative to.
        named: those of `files` that the user named one by one.
        barred: folders that could not be looked into, with the reason.
        stores: zarr stores, folders or URLs, each of which is one image; none of their files are among `files`.
    """

    files: tuple[Path, ...]
    top: Path
    named: frozenset[Path] = frozenset()
    barred: Mapping[Path, str] = field(default_factory=dict)
    stores: tuple[str, ...] = ()


def find_files(source: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None) -> FoundFiles:
    """Find the files of a batch; hidden ones, `output_dir` and the output folders of earlier batches are left out.

    Args:
        source: a folder, a pattern, a ``.txt`` list or one image, as for `pipeline.batch.inputs.find_inputs`.
        output_dir: where the results will go.
    """
    if (url := url_of(source)) is not None:
        return FoundFiles((), Path(), stores=(url,))
    path = path_of(source)
    output = None if output_dir is None else Path(output_dir).resolve()
    if is_store(path):
        if output is not None and output.is_relative_to(path.resolve()):
            reason = "the output folder lies in the image, which would change with each result"
            raise InputError(reason, file=output_dir, remedy="choose another output folder")
        return _found([path], output, path.parent)
    if path.is_dir():
        if path.resolve() == output:
            reason = "the output folder is the input folder, so that results would be taken for inputs"
            raise InputError(reason, file=path, remedy="choose another output folder")
        return _found([path], output, path)
    if path.is_file():
        named, urls = _read_list(path) if path.suffix.lower() == ".txt" else ([path], [])
        if named == [path] and not has_image_suffix(path) and not may_be_dicom(path):
            remedy = "name a folder, a pattern, an image, or a .txt file of one path per line"
            raise InputError("is neither an image nor a list of paths", file=path, remedy=remedy)
        found = _found(named, output, path.parent, frozenset(named))
        return replace(found, stores=(*found.stores, *urls))
    if not glob.has_magic(str(path)):
        raise InputError("the input does not exist", file=path, remedy="correct the path")
    top = _above_magic(path)
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    return _found(_outside(matches, top, output), output, top)


def _outside(matches: Iterable[Path], top: Path, output: Path | None) -> Iterator[Path]:
    """Leave out what lies in a folder that is not searched, or within a zarr store."""
    looked_at: dict[Path, bool] = {}
    for match in matches:
        folders = _folders(match, top)
        inside = [folder for folder in folders if folder != match]
        if not any(_known(looked_at, folder, is_store) for folder in inside) and not any(
            _is_left_out(folder, output) for folder in folders
        ):
            yield match


def _known(answers: dict[Path, bool], folder: Path, question: Callable[[Path], bool]) -> bool:
    if folder not in answers:
        answers[folder] = question(folder)
    return answers[folder]


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
    stores: list[Path] = []
    barred: dict[Path, str] = {}

    def note(error: OSError) -> None:
        barred[Path(error.filename)] = str(error.strerror)

    for path in paths:
        if is_store(path):
            stores.append(path)
            continue
        if not path.is_dir():
            found.append(path)
            continue
        for folder, names, files in os.walk(path, onerror=note, followlinks=True):
            here = Path(folder)
            names[:] = sorted(name for name in names if not _is_left_out(here / name, output))
            closed = {name for name in names if is_store(here / name)}
            stores += [here / name for name in names if name in closed]
            names[:] = [name for name in names if name not in closed]
            found += [here / name for name in sorted(files) if not name.startswith(".")]
    distinct = tuple(dict.fromkeys(str(store) for store in stores))
    return FoundFiles(tuple(dict.fromkeys(found)), top, named - set(stores), barred, distinct)


def _is_left_out(folder: Path, output: Path | None) -> bool:
    real = folder.resolve()
    in_a_circle = folder.is_symlink() and folder.parent.resolve().is_relative_to(real)
    if folder.name.startswith(".") or real == output or in_a_circle:
        return True
    try:
        return (folder / RECORDS).is_dir()
    except PermissionError:  # the walk will say it
        return False


def _read_list(file: Path) -> tuple[list[Path], list[str]]:
    """Return the paths and the URLs of a list."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError("is no text in UTF-8", file=file, remedy="write one path per line") from error
    urls = [url for line in lines if (url := url_of(line)) is not None]
    paths = [path_of(line) for line in lines if line and url_of(line) is None]
    places = {path: Path(os.path.normpath(file.parent / path)) for path in paths}
    kept = [place for path, place in places.items() if str(path)[:1] != "#" or os.path.lexists(place)]
    if not kept and not urls:
        raise InputError("the list is empty", file=file, remedy="write one path per line")
    return list(dict.fromkeys(kept)), list(dict.fromkeys(urls))


def _above_magic(pattern: Path) -> Path:
    """Return the folder before the first part with a sign of a pattern."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _folders(match: Path, top: Path) -> list[Path]:
    """Return the folders between `top` and a match, itself included where it is one."""
    above = [folder for folder in match.parents if top in folder.parents]
    return [match, *above] if match.is_dir() and match != top else above
