"""What a batch is made of: cases, each with its files, found in a folder, behind a pattern or in a list."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.batch.input_files import FoundFiles, find_files, has_image_suffix, may_be_dicom
from pipeline.errors import InputError
from pipeline.volumes.dicom import DICOM_SUFFIXES, DicomSeries, is_continued_by, list_series
from pipeline.volumes.dicom_file import read_dicom_file
from pipeline.volumes.pictures import PICTURES
from pipeline.volumes.reading import SUFFIXES, files_of, read_header
from pipeline.volumes.zarr_place import STORE_SUFFIXES, url_of

logger = logging.getLogger(__name__)

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)  # brain_0000, brain_0001


@dataclass(frozen=True)
class Input:
    """One case of a batch.

    Args:
        case: its id, unique in the batch: the relative path without suffix, with it where two files share the rest.
        files: what `read_volume` takes, one for each channel, or one that holds all.
        parts: every file on disk that these are read from, such as the slices of a DICOM series; none of a store.
        problem: why the case cannot be read, where that is known beforehand.
        store: the folder or URL of a zarr store, which `pipeline.volumes.ome_zarr` opens; `files` names it too.
    """

    case: str
    files: tuple[Path, ...]
    parts: tuple[Path, ...]
    problem: InputError | None = None
    store: str | None = None

    @property
    def relative(self) -> Path:
        """Where the case's outputs go below the output folder: no two cases share it."""
        return Path(self.case)


@dataclass(frozen=True)
class _Found:
    stem: str  # the id, if no other case wants it
    name: str  # the id otherwise
    files: tuple[Path, ...]
    parts: tuple[Path, ...]
    problem: InputError | None = None
    store: str | None = None


def find_inputs(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    channels: int = 1,
    *,
    spatial_dims: int,
) -> list[Input]:
    """Return the cases of a batch, sorted by their ids.

    Hidden files and folders, `output_dir` and the output folders of earlier batches are left out of a search.

    Args:
        source: a folder, searched with its sub-folders; a pattern such as ``scans/*/t1.nii.gz``; a ``.txt`` file of one
            path per line, relative to its own folder, # before a remark; or one file. A DICOM series is found by any
            of its files. A zarr store is one case, wherever its folder is found; a URL, in a list or by itself, is one.
        output_dir: where the results will go.
        channels: of the network; with more than one, ``x_0000.nii.gz``, ``x_0001.nii.gz`` are the channels of case x,
            unless the files hold all channels themselves.
        spatial_dims: 2 or 3; in 3D pictures (PNG, JPEG, BMP) are left out of a search, in 2D a DICOM file is a case.
    """
    found = _recognise(find_files(source, output_dir), spatial_dims)
    if not found:
        reason = f"holds no image of {spatial_dims}D ({' '.join(SUFFIXES)}, OME-Zarr, DICOM)"
        raise InputError(reason, file=source, remedy="check the path, or convert the files to one of these formats")
    if channels > 1:
        found = _join_channels(found, channels, spatial_dims)
    return sorted(_with_ids(found), key=lambda entry: entry.case)


def shard(inputs: Sequence[Input], num_shards: int, shard_id: int) -> list[Input]:
    """Return every `num_shards`-th case from number `shard_id`, 0 to num_shards - 1, on: each case is in one shard."""
    if num_shards < 1 or not 0 <= shard_id < num_shards:
        reason = f"there is no shard {shard_id} of {num_shards}"
        raise InputError(reason, file="shard_id", remedy="count the shards from 0 to num_shards - 1")
    return list(inputs[shard_id::num_shards])


def _recognise(given: FoundFiles, spatial_dims: int) -> list[_Found]:
    """Turn files into cases; a file that was named becomes one whatever it is: its reading says what is wrong."""
    found, locked = _barred(given)
    found += [_store(store, given.top) for store in given.stores]
    left_out: Counter[str] = Counter()
    slices: dict[Path, list[Path]] = {}
    for file in given.files:
        if file in locked:
            continue
        if spatial_dims == 3 and may_be_dicom(file) and file.is_file():
            slices.setdefault(file.parent, []).append(file)
        elif file in given.named or _suits(file, spatial_dims):
            found.append(_single(file, given.top, spatial_dims))
        else:
            left_out[file.suffix or "without a suffix"] += 1
    series = {folder: list_series(folder) for folder in slices}
    spread = _spread([one for several in series.values() for one in several])
    for folder, chosen in slices.items():
        wanted = [one for one in series[folder] if not set(chosen).isdisjoint(one.paths)]
        found += _series_cases(wanted, series[folder], _place(folder, given.top), spread)
        in_series = {path for one in wanted for path in one.paths}
        for file in chosen:
            if file not in in_series and file in given.named:
                found.append(_single(file, given.top, spatial_dims))
            elif file not in in_series:  # a report, a structure set
                left_out["DICOM without an image"] += 1
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        logger.info("left out, for they are no images of %dD: %s", spatial_dims, kinds)
    return found


def _suits(file: Path, spatial_dims: int) -> bool:
    if has_image_suffix(file):
        return spatial_dims == 2 or file.suffix.lower() not in PICTURES
    if not may_be_dicom(file):
        return False
    header = read_dicom_file(file)
    return header.is_image or not header.series  # a damaged one is a case that fails


def _single(file: Path, top: Path, spatial_dims: int) -> _Found:
    name = _place(file, top)
    suffix = next((end for end in (*SUFFIXES, *DICOM_SUFFIXES) if name.lower().endswith(end)), "")
    try:
        parts = files_of(file, spatial_dims)
    except InputError:  # the reading will say it
        parts = (file,)
    return _Found(name[: len(name) - len(suffix)], name, (file,), parts)


def _store(store: str, top: Path) -> _Found:
    """Name a store by its path as any other input, and one behind a URL by its last part, or by all if need be."""
    url = url_of(store)
    name = _place(Path(store), top) if url is None else _url_place(url)
    stem = next((name[: -len(end)] for end in STORE_SUFFIXES if name.lower().endswith(end)), name)
    short = stem if url is None else stem.rpartition("/")[2]
    return _Found(short or name, name, (Path(store),), (), store=store)


def _url_place(url: str) -> str:
    """Return host and path of a URL, "bucket/a/x.zarr" for "s3://bucket/a/x.zarr?version=1", without a password."""
    parts = urlsplit(url.rpartition("::")[2])
    host = parts.netloc.rpartition("@")[2]
    steps = [step for step in (host + parts.path).split("/") if step not in ("", ".", "..")]
    return "/".join(steps) or "store"


def _barred(given: FoundFiles) -> tuple[list[_Found], set[Path]]:
    """Return a case that fails for each folder that holds what cannot be opened, and the files that are meant."""
    locked: dict[Path, list[Path]] = {}
    for file in given.files:
        if file not in given.named and not has_image_suffix(file) and not os.access(file, os.R_OK):
            locked.setdefault(file.parent, []).append(file)  # which may be the slices of a series
    reasons = dict(given.barred)
    for folder, files in locked.items():
        names = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
        reasons[folder] = f"{len(files)} of its files cannot be opened: {names}"
    found = [_unreadable(folder, given.top, reason) for folder, reason in reasons.items()]
    return found, {file for files in locked.values() for file in files}


def _unreadable(folder: Path, top: Path, reason: str) -> _Found:
    """Make a case that fails of a folder which may hold one, for nobody would miss it otherwise."""
    problem = InputError(f"cannot be searched: {reason}", file=folder, remedy="correct its permissions")
    name = f"{_place(folder, top)} (unreadable)"
    return _Found(name, name, (folder,), (folder,), problem)


def _place(path: Path, top: Path) -> str:
    """Return the path relative to `top`, or from the root of the file system on where it lies elsewhere."""
    full, above = Path(os.path.abspath(path)), Path(os.path.abspath(top))
    if full == above:
        return full.name
    return (full.relative_to(above) if full.is_relative_to(above) else full.relative_to(full.anchor)).as_posix()


def _series_cases(
    wanted: list[DicomSeries], all_of_folder: list[DicomSeries], place: str, spread: dict[int, InputError]
) -> Iterator[_Found]:
    """Name the only volume of a folder after the folder, and one of several by its series too."""
    total, seen = Counter(one.uid for one in all_of_folder), Counter[str]()
    for one in all_of_folder:
        seen[one.uid] += 1
        if one not in wanted:
            continue
        number = f"-{seen[one.uid]}" if total[one.uid] > 1 else ""
        name = place if len(all_of_folder) == 1 else f"{place}/{one.uid}{number}"
        file = one.paths[0].parent if len(all_of_folder) == 1 else one.paths[0]
        yield _Found(name, name, (file,), one.paths, spread.get(id(one)))


def _spread(series: list[DicomSeries]) -> dict[int, InputError]:
    """Find the series that go on in another folder, each of which would be read as a part for the whole."""
    by_uid: dict[str, list[DicomSeries]] = {}
    for one in series:
        by_uid.setdefault(one.uid, []).append(one)
    problems = {}
    for same in by_uid.values():
        for one, other in permutations(same, 2):
            if is_continued_by(one, other):
                reason = f"its series goes on in the folder '{other.paths[0].parent}'"
                remedy = "put all files of the series into one folder"
                problems[id(one)] = InputError(reason, file=one.paths[0].parent, remedy=remedy)
    return problems


def _join_channels(found: list[_Found], channels: int, spatial_dims: int) -> list[_Found]:
    joined: list[_Found] = []
    groups: dict[str, list[tuple[int, _Found]]] = {}
    for item in found:
        if item.store is None and (match := CHANNEL.fullmatch(item.stem)):
            groups.setdefault(match["case"], []).append((int(match["channel"]), item))
        else:
            joined.append(item)
    for case, members in groups.items():
        members.sort(key=lambda member: (member[0], member[1].name))
        if _holds_channels(members[0][1], channels, spatial_dims):
            joined += [item for _, item in members]
        else:
            joined.append(_join(case, members, channels))
    return joined


def _holds_channels(item: _Found, channels: int, spatial_dims: int) -> bool:
    """Tell a number of an image, as in the colour pictures frame_0001.png, from that of a channel."""
    try:
        return read_header(item.files[0], spatial_dims).channels == channels
    except InputError:
        return False


def _join(case: str, members: list[tuple[int, _Found]], channels: int) -> _Found:
    present = [channel for channel, _ in members]
    problem = next((item.problem for _, item in members if item.problem), None)
    if present != list(range(channels)):
        names = ", ".join(item.files[0].name for _, item in members)
        problem = InputError(
            f"has the channels {present} ({names}), where {list(range(channels))} are needed, each once",
            file=members[0][1].files[0].parent,
            remedy="add the files that are missing, and take out those that are no channels of this case",
        )
    files = tuple(file for _, item in members for file in item.files)
    return _Found(case, case, files, tuple(part for _, item in members for part in item.parts), problem)


def _with_ids(found: list[_Found]) -> Iterator[Input]:
    ids = [item.stem for item in found]
    while True:
        count = Counter(ids)
        fuller = [item.name if count[id_] > 1 else id_ for id_, item in zip(ids, found, strict=True)]
        if fuller == ids:
            break
        ids = fuller
    for id_, item in zip(ids, found, strict=True):
        if count[id_] > 1:
            raise InputError("two inputs have this name", case=id_, file=item.files[0], remedy="rename one of them")
        problem = item.problem
        if problem is not None:
            problem = InputError(problem.reason, case=id_, file=problem.file, remedy=problem.remedy)
        yield Input(id_, item.files, item.parts, problem, item.store)
