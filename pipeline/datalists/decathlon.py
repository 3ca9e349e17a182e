"""The Medical Segmentation Decathlon: ten tasks of CT and MR volumes, each described by its dataset.json.

Source: Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9; http://medicaldecathlon.com.
Licence: CC-BY-SA-4.0.

Layout, one folder for each task, such as Task04_Hippocampus:

    <folder>/dataset.json    name, modality, labels, training, test
             imagesTr/hippocampus_001.nii.gz    modalities along the fourth axis
             labelsTr/hippocampus_001.nii.gz
             imagesTs/hippocampus_002.nii.gz    may be missing
             imagesTr/._hippocampus_001.nii.gz  not used: the archive's macOS attributes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.datalists.datalist import Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, suffix_of

FOLDERS = ("imagesTr", "labelsTr", "imagesTs")


def list_decathlon(
    folder: str | PathLike[str], dataset_dir: str | PathLike[str] | None = None, *, n_folds: int = 5, seed: int = 0
) -> Listing:
    """List a task's volumes as they are: training in folds, test without labels.

    Args:
        folder: one task, which holds dataset.json.
        dataset_dir: where the list's paths begin; `folder` unless given. Nothing has to be converted.
        n_folds: number of folds of the training volumes.
        seed: seed of the folds.
    """
    top = Path(folder).resolve()
    task = _read_task(top)
    classes, channels = (_name_numbers(task[key], key, top) for key in ("labels", "modality"))
    left_out: LeftOut = []
    pairs = [(entry["image"], entry["label"]) for entry in task["training"]]
    tests = [entry["image"] if isinstance(entry, Mapping) else entry for entry in task.get("test", [])]
    training = [pair for pair in (tuple(map(_plain, pair)) for pair in pairs) if _all_there(top, pair, left_out)]
    test = [image for image in map(_plain, tests) if _all_there(top, (image,), left_out)]
    if not training:
        raise wrong_layout(folder, "has no file that the training list of dataset.json names", __doc__)
    named = {file for pair in pairs for file in map(_plain, pair)} | set(map(_plain, tests))
    for file in sorted(file for place in FOLDERS for file in (top / place).glob("[!.]*")):
        if file.relative_to(top).as_posix() not in named:
            left_out.append((file, "dataset.json does not name it"))
    target = DatasetFolder(top, dataset_dir)
    entries: list[tuple[str, ...]] = [*training, *((image,) for image in test)]
    whole = {entry for entry, _ in convert_most(entries, lambda entry: _look(top, entry), f"'{top}'", left_out)}
    training = [pair for pair in training if pair in whole]
    test = [image for image in test if (image,) in whole]
    folds = assign_folds([_id(image) for image, _ in training], [None] * len(training), n_folds, seed)
    cases = [
        Case(_id(image), target.use(top / image, image), target.use(top / label, label), fold=folds[_id(image)])
        for image, label in training
    ]
    cases += [Case(_id(image), target.use(top / image, image), split="test") for image in test]
    data_list = DataList(
        name=str(task.get("name") or top.name),
        description=str(task.get("description") or f"{len(cases)} volumes").rstrip(".") + ".",
        licence=str(task.get("licence") or task.get("license") or "CC-BY-SA-4.0"),
        source="http://medicaldecathlon.com, https://doi.org/10.1038/s41467-022-30695-9",
        made_by=f"pipeline.datalists.decathlon.list_decathlon, {n_folds=}, {seed=}",
        spatial_dims=3,
        label_kind="classes",
        classes=classes,
        channels=channels,
        cases=tuple(cases),
    )
    return Listing(data_list, target.root, left_out)


def _read_task(top: Path) -> dict[str, Any]:
    file = top / "dataset.json"
    if not file.is_file():
        reason = "has no dataset.json (without one, the layout 'folders' pairs images and labels by name)"
        raise wrong_layout(top, reason, __doc__)
    try:
        task = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", file=file, remedy="fetch it again from its source") from error
    kinds = {"labels": dict, "modality": dict, "training": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(task, dict) or not isinstance(task.get(key), kind)]
    if wrong or not all(isinstance(entry, dict) and {"image", "label"} <= entry.keys() for entry in task["training"]):
        reason = f"dataset.json lacks or misuses {', '.join(wrong or ['training'])}"
        raise wrong_layout(top, reason, __doc__)
    return task


def _name_numbers(names: Mapping[str, str], key: str, top: Path) -> tuple[str, ...]:
    """{"0": "background", "1": "anterior"} as ("background", "anterior"); numbers with gaps are an error."""
    numbers = [str(number) for number in range(len(names))]
    if set(names) != set(numbers):
        reason = f"{key} has the numbers {', '.join(names)}, not 0 to {len(names) - 1}"
        raise InputError(reason, file=top / "dataset.json", remedy="number them without gaps, here and in the files")
    return tuple(str(names[number]) for number in numbers)


def _all_there(top: Path, files: tuple[str, ...], left_out: LeftOut) -> bool:
    missing = [top / file for file in files if not (top / file).is_file()]
    left_out += [(file, "dataset.json names it, but it is not there") for file in missing]
    return not missing


def _look(top: Path, files: tuple[str, ...]) -> None:
    """Raise where a header cannot be read; the case is named after the image, which comes first."""
    for file in files:
        read_header(top / file, 3, _id(files[0]))


def _plain(path: str) -> str:
    return PurePosixPath(path).as_posix()  # "./imagesTr/a.nii.gz" loses its dot


def _id(image: str) -> str:
    name = PurePosixPath(image).name
    return name[: -len(suffix_of(name))]
