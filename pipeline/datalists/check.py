"""Look at every file of a data list before training, and report all that is wrong at once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.datalists.datalist import SPLITS, Case, DataList, unlabelled
from pipeline.errors import InputError, raise_all
from pipeline.volumes.header import Kind, Volume
from pipeline.volumes.reading import read_volume

AFFINE_TOLERANCE = 1e-3  # mm
BUNDLES = {2: "train with bundles/unet", 3: "train with bundles/unet3d"}  # each is made for its dimension
WITH_GEOMETRY = ("NIfTI", "MetaImage", "NRRD")


@dataclass(frozen=True)
class Report:
    """What a check without problems saw.

    Args:
        cases: number of cases.
        labelled: number of cases with a label.
        with_foreground: number of labels that hold more than background.
        warnings: what is odd but may be meant.
    """

    cases: int
    labelled: int
    with_foreground: int
    warnings: tuple[InputError, ...]


@dataclass
class _Findings:
    """What one case's files show; `foreground` is None without a label that can be read."""

    case: Case
    split: str
    problems: list[InputError] = field(default_factory=list)
    warnings: list[InputError] = field(default_factory=list)
    digests: dict[str, Path] = field(default_factory=dict)
    foreground: bool | None = None

    def problem(self, reason: str, file: Path, remedy: str) -> None:
        self.problems.append(InputError(reason, case=self.case.id, file=file, remedy=remedy))


def check_cases(
    data_list: DataList, dataset_dir: str | PathLike[str], split: str = "all", fold: int = 0, progress: bool = True
) -> Report:
    """Read every case of a split, and raise one InputError with all that would spoil a training or an evaluation.

    Checked: files are there and whole, images and labels lie on one grid, channels and label values are those of the
    list, training and validation have labels and foreground, and no image is in two folds or splits.

    Args:
        data_list: the list.
        dataset_dir: the folder that its paths are relative to.
        split: "training", "validation", "test" or "all".
        fold: which fold validates.
        progress: show a bar if it takes more than 2 seconds.
    """
    problems: list[InputError] = []
    chosen: dict[str, str] = {}
    for name in SPLITS if split == "all" else (split,):
        try:
            chosen |= {case.id: name for case in data_list.select(name, fold)}
        except InputError as error:
            if str(error) not in map(str, problems):  # training and validation lack the same fold
                problems.append(error)
    if not chosen and not problems:
        problems.append(InputError(f"data list '{data_list.name}' has no {split} case", remedy="choose another split"))
    cases = [case for case in data_list.cases if case.id in chosen]
    bar = tqdm(cases, f"checking '{data_list.name}'", delay=2, disable=not progress)
    findings = [_look(case, chosen[case.id], data_list, Path(dataset_dir)) for case in bar]
    copied, copy_warnings = _compare_contents(findings)
    problems += [problem for found in findings for problem in found.problems]
    problems += copied + _check_foreground(findings)
    raise_all(problems, f"data list '{data_list.name}' in '{dataset_dir}'")
    return Report(
        cases=len(findings),
        labelled=sum(found.case.label is not None for found in findings),
        with_foreground=sum(bool(found.foreground) for found in findings),
        warnings=(*(warning for found in findings for warning in found.warnings), *copy_warnings),
    )


def check_fits(data_list: DataList, class_names: Sequence[str], in_channels: int, spatial_dims: int) -> None:
    """Raise one InputError with all settings of a config that this data list contradicts.

    Args:
        data_list: the list.
        class_names: the network's classes, background first.
        in_channels: the network's input channels.
        spatial_dims: 2 or 3.
    """
    settings = {
        "class_names": (list(class_names), list(data_list.classes)),
        "in_channels": (in_channels, len(data_list.channels)),
        "spatial_dims": (spatial_dims, data_list.spatial_dims),
    }
    problems = [
        InputError(
            f"{key} is {_shown(ours)}, but the data list '{data_list.name}' has {_shown(theirs)}",
            remedy=BUNDLES[data_list.spatial_dims] if key == "spatial_dims" else f'--{key} "{theirs}"',
        )
        for key, (ours, theirs) in settings.items()
        if ours != theirs
    ]
    raise_all(problems, "The config does not fit the data")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _look(case: Case, split: str, data_list: DataList, root: Path) -> _Findings:
    found = _Findings(case, split)
    images = [_read(root / file, data_list, "image", found) for file in case.images]
    volumes = [image for image in images if image is not None]
    for image in volumes:
        if image.array.min() == image.array.max():
            reason = f"every value of the image is {image.array.flat[0]}"
            found.warnings.append(InputError(reason, case=case.id, file=image.file, remedy="look at the image"))
        else:
            with image.file.open("rb") as stream:
                found.digests[hashlib.file_digest(stream, "sha256").hexdigest()] = image.file
    count, names = sum(len(image.array) for image in volumes), data_list.channels
    if len(volumes) == len(images) and count != len(names):
        remedy = "correct the list's channels or convert the image"
        found.problem(f"{count} channels, but the list names {len(names)}: {', '.join(names)}", volumes[0].file, remedy)
    if case.label is not None:
        label = _read(root / case.label, data_list, "label", found)
        if label is not None:
            _check_values(label, data_list, found)
            volumes.append(label)
    elif split != "test":
        found.problems.append(unlabelled(case, split))
    _check_grids(volumes, found)
    return found


def _read(file: Path, data_list: DataList, kind: Kind, found: _Findings) -> Volume | None:
    try:
        return read_volume(file, data_list.spatial_dims, case=found.case.id, kind=kind)
    except InputError as error:
        found.problems.append(error)
        return None


def _check_values(label: Volume, data_list: DataList, found: _Findings) -> None:
    values = np.unique(label.array)
    found.foreground = bool((values != 0).any())
    if data_list.label_kind == "instances":
        if values[0] < 0:
            found.problem(f"label value {values[0]} is negative", label.file, "number the objects 1, 2, ...")
        return
    top = len(data_list.classes) - 1
    wrong = values[(values < 0) | (values > top)].tolist()
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        reason = f"label values {shown} are not among the classes 0..{top} ({', '.join(data_list.classes)})"
        found.problem(reason, label.file, "renumber the label, or name its classes in the list")


def _check_grids(volumes: Sequence[Volume], found: _Findings) -> None:
    """A case's further channels and its label lie on the grid of its first file."""
    for other in volumes[1:]:
        first, remedy = volumes[0], "resample one onto the other's grid (labels by nearest neighbour)"
        if other.shape != first.shape:
            found.problem(f"shape {other.shape} differs from {first.shape} of '{first.file}'", other.file, remedy)
        elif first.format in WITH_GEOMETRY and other.format in WITH_GEOMETRY:
            gap = np.abs(first.affine - other.affine).max()
            if gap > AFFINE_TOLERANCE:
                reason = f"affine differs by up to {gap:.3g} mm from that of '{first.file}'"
                found.problem(reason, other.file, f"correct its header, or {remedy}")


def _compare_contents(findings: Sequence[_Findings]) -> tuple[list[InputError], list[InputError]]:
    """Equal files: a problem between folds or splits, where one would be tested on what it learnt; else a warning."""
    seen: dict[str, list[tuple[Case, Path]]] = defaultdict(list)
    for found in findings:
        for digest, file in found.digests.items():
            seen[digest].append((found.case, file))
    problems: list[InputError] = []
    warnings: list[InputError] = []
    for copies in seen.values():
        (first, _), *others = copies
        for case, file in others:
            reason = f"has the same content as the image of case '{first.id}' ({first.place}; this one: {case.place})"
            divided = case.place != first.place
            remedy = "remove one, or put both into the same fold or split" if divided else "remove one"
            (problems if divided else warnings).append(InputError(reason, case=case.id, file=file, remedy=remedy))
    return problems, warnings


def _check_foreground(findings: Sequence[_Findings]) -> list[InputError]:
    """Training on, or validating with, nothing but background is a mistake; a test set may be meant that way."""
    problems = []
    for split in ("training", "validation"):
        known = [found.foreground for found in findings if found.split == split]
        if known and all(foreground is False for foreground in known):
            remedy = "check the labels" if split == "training" else "check the labels, or deal the folds anew"
            problems.append(InputError(f"every {split} label is empty", remedy=remedy))
    return problems
