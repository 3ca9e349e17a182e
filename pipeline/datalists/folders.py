"""A folder of images and a folder of labels become a data list: paired by name, dealt into folds by patient."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.datalists.datalist import Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut
from pipeline.datalists.label_values import check_classes, find_mask_value, name_classes, read_label_values, write_mask
from pipeline.errors import InputError, raise_all
from pipeline.volumes.reading import files_of, read_header, suffix_of

LABEL_POSTFIXES = ("_segmentation", "_seg", "_mask", "_masks", "_label", "_labels", "_gt")
CHANNEL = re.compile(r"(.+)_(\d{4})")  # case_0000, case_0001: one file for each channel


class Listing(NamedTuple):
    """A data list, the folder its paths begin in, the files that are not in it, and what was converted."""

    data_list: DataList
    dataset_dir: Path
    left_out: LeftOut
    note: str = ""


class Pair(NamedTuple):
    """A case's images by channel number ("" for a single file without one) and its label."""

    images: Mapping[str, Path]
    label: Path


def list_folders(
    images_dir: str | PathLike[str],
    labels_dir: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    *,
    name: str = "folders",
    label_kind: Literal["instances", "classes"] = "classes",
    classes: Sequence[str] | None = None,
    spatial_dims: int | None = None,
    n_folds: int | None = None,
    seed: int = 0,
    group_pattern: str | None = None,
) -> Listing:
    """List the cases of two folders and all below them; a case id is a file name without suffix and label postfix.

    An image pairs with the label of the same id, or of the id and one of `LABEL_POSTFIXES`; several images
    `id_0000`, `id_0001`, ... pair as channels with the label `id`. Both folders may be the same: labels have a postfix.
    Where all labels together hold 0 and one value that is no class number, such as 255, they are converted to 0 and 1.

    Args:
        images_dir: folder of images.
        labels_dir: folder of labels.
        dataset_dir: where converted labels go, and links to what stays as it is; unless given, `data/<name>` if labels
            are converted, otherwise the folder that holds both.
        name: the data set's name.
        label_kind: "classes" where a label value names a class, "instances" where it numbers an object.
        classes: names of the values 0, 1, ...; by default the values found are named. The labels may hold no others.
        spatial_dims: 2 or 3; by default what the first image is.
        n_folds: number of folds, at least 2; by default 5, or one for each patient where there are fewer.
        seed: seed of the folds.
        group_pattern: regular expression, sought in the id with its sub-folders in front ("ward_1/patient_07_scan_2");
            what its first group matches is the patient, who is never divided between folds.
    """
    images_top, labels_top = _folder(images_dir), _folder(labels_dir)
    left_out: LeftOut = []
    images, labels = _index(images_top, labels_top, left_out)
    pairs = _whole(_pair(images, labels, left_out), left_out)
    if not pairs:
        examples = "; ".join(f"{file.name}: {reason}" for file, reason in left_out[:3]) or "the folders are empty"
        remedy = "give an image and its label the same name, such as 'a.png' and 'a_mask.png'"
        raise InputError(f"no image has a label in '{labels_top}' ({examples})", file=images_top, remedy=remedy)
    dims = spatial_dims or _guess_dims(_files(next(iter(pairs.values())))[0])
    root = Path(os.path.commonpath([images_top, labels_top]))
    mask_value = None
    if label_kind == "instances":
        classes = classes or ["background", "object"]
    else:
        pairs, classes, mask_value = _decide_classes(pairs, dims, classes, left_out)
    target = DatasetFolder(root, dataset_dir, None if mask_value is None else name)
    groups = _groups(pairs, images_top, group_pattern)
    patients = {(group is None, group or case) for case, group in zip(pairs, groups, strict=True)}
    folds = assign_folds(list(pairs), groups, n_folds or min(5, len(patients)), seed)

    def use(file: Path) -> str:
        """The path in the list; the voxels of a MetaImage come along."""
        first, *_ = [target.use(part, part.relative_to(root).as_posix()) for part in files_of(file, dims)]
        return first

    cases = []
    for (case, pair), group in zip(pairs.items(), groups, strict=True):
        files = tuple(use(file) for file in _files(pair))
        if mask_value is None:
            label = use(pair.label)
        else:
            label = write_mask(target, pair.label, pair.label.relative_to(root).as_posix(), case, dims)
        cases.append(Case(case, files[0] if len(files) == 1 else files, label, group, folds[case]))
    data_list = DataList(
        name=name,
        description=f"{len(cases)} cases, paired by name.",
        licence="unknown",
        source=f"folders '{images_top.name}' and '{labels_top.name}'",
        made_by="pipeline.datalists.folders.list_folders",
        spatial_dims=dims,
        label_kind=label_kind,
        classes=tuple(classes),
        channels=_name_channels(next(iter(pairs.values())), dims),
        cases=tuple(cases),
    )
    note = (
        f"the labels hold 0 and {mask_value}: converted to 0 and 1 in {target.root}" if mask_value is not None else ""
    )
    return Listing(data_list, target.root, left_out, note)


def _folder(folder: str | PathLike[str]) -> Path:
    if not Path(folder).is_dir():
        raise InputError("is not a folder", file=folder, remedy="give the folder's path")
    return Path(folder).resolve()


def _index(images_top: Path, labels_top: Path, left_out: LeftOut) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and labels by their name without suffix; a name that occurs twice is an error."""
    if images_top == labels_top:
        found = _scan(images_top, None, left_out)
        is_label = [stem.endswith(LABEL_POSTFIXES) for stem, _ in found]
        images = [entry for entry, label in zip(found, is_label, strict=True) if not label]
        labels = [entry for entry, label in zip(found, is_label, strict=True) if label]
    else:
        images, labels = _scan(images_top, labels_top, left_out), _scan(labels_top, images_top, left_out)
    problems: list[InputError] = []
    indices = []
    for found in (images, labels):
        index: dict[str, Path] = {}
        for stem, file in found:
            if (other := index.setdefault(stem, file)) != file:
                remedy = "rename one, because the name is the case's id"
                problems.append(InputError(f"has the same name as '{other}'", case=stem, file=file, remedy=remedy))
        indices.append(index)
    raise_all(problems, "equal case ids")
    return indices[0], indices[1]


def _scan(top: Path, other: Path | None, left_out: LeftOut) -> list[tuple[str, Path]]:
    """Name without suffix and path of every image file below `top`, but not below `other` if that lies inside."""
    found = []
    for file in sorted(top.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(top).parts)
        inside = other is not None and other != top and top in other.parents and other in file.parents
        voxels = file.suffix in (".raw", ".zraw") and file.with_suffix(".mhd").exists()
        if hidden or inside or voxels or not file.is_file():
            continue
        try:
            stem = file.name[: -len(suffix_of(file))].removesuffix(".ome")
        except InputError as error:
            left_out.append((file, error.reason))
        else:
            found.append((stem, file))
    return found


def _pair(images: Mapping[str, Path], labels: Mapping[str, Path], left_out: LeftOut) -> dict[str, Pair]:
    """Pair by case id, in the ids' order; what has no partner goes to `left_out`."""
    channels: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, file in images.items():
        if match := CHANNEL.fullmatch(stem):
            channels[match[1]][match[2]] = file
    pairs: dict[str, Pair] = {}
    problems = []
    for stem, label in labels.items():
        names = [stem, *(stem.removesuffix(postfix) for postfix in LABEL_POSTFIXES if stem.endswith(postfix))]
        case = next((name for name in names if name in images or name in channels), None)
        if case is None:
            left_out.append((label, f"there is no image '{names[-1]}'"))
        elif case in pairs:
            reason = f"'{pairs[case].label}' is a label of this case, too"
            problems.append(InputError(reason, case=case, file=label, remedy="keep one of the two"))
        else:
            pairs[case] = Pair({"": images[case]} if case in images else channels[case], label)
    raise_all(problems, "several labels for one case")
    used = {file for pair in pairs.values() for file in pair.images.values()}
    left_out += [(file, f"there is no label '{stem}'") for stem, file in images.items() if file not in used]
    return dict(sorted(pairs.items()))


def _whole(pairs: Mapping[str, Pair], left_out: LeftOut) -> dict[str, Pair]:
    """The pairs that have every channel that any case has; the files of the others go to `left_out`."""
    channels = {number for pair in pairs.values() for number in pair.images}
    whole = {}
    for case, pair in pairs.items():
        if missing := sorted(channels - set(pair.images)):
            names = ", ".join(f"'{case}_{number}'" if number else f"'{case}'" for number in missing)
            left_out += [(file, f"the case has no image {names}") for file in (*_files(pair), pair.label)]
        else:
            whole[case] = pair
    return whole


def _files(pair: Pair) -> list[Path]:
    return [pair.images[number] for number in sorted(pair.images)]


def _groups(pairs: Mapping[str, Pair], top: Path, pattern: str | None) -> list[str | None]:
    if pattern is None:
        return [None] * len(pairs)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the group pattern '{pattern}' is no regular expression: {error}") from error
    if compiled.groups < 1:
        raise InputError(f"the group pattern '{pattern}' has no group", remedy="put the patient's part in brackets")
    groups: list[str | None] = []
    problems = []
    for case, pair in pairs.items():
        place = (_files(pair)[0].parent.relative_to(top) / case).as_posix()
        match = compiled.search(place)
        groups.append(match[1] if match else None)
        if not groups[-1]:
            reason = f"the group pattern '{pattern}' finds nothing in '{place}'"
            problems.append(InputError(reason, case=case, remedy="change the pattern or rename the file"))
    raise_all(problems, "cases without a group")
    return groups


def _decide_classes(
    pairs: Mapping[str, Pair], spatial_dims: int, classes: Sequence[str] | None, left_out: LeftOut
) -> tuple[dict[str, Pair], Sequence[str], int | None]:
    """The pairs whose label can be read, the classes, and v if the labels are masks of 0 and v."""
    labels = {case: pair.label for case, pair in pairs.items()}
    values = read_label_values(labels, spatial_dims, left_out)
    together = set().union(*values.values())
    mask_value = find_mask_value(together, len(classes) if classes else None)
    if mask_value is not None:
        classes = classes or ["background", "class_1"]
    elif classes:
        check_classes(values, labels, classes)
    else:
        classes = name_classes(together)
    return {case: pairs[case] for case in values}, classes, mask_value


def _guess_dims(image: Path) -> int:
    try:
        return len(read_header(image, 2).shape)
    except InputError:
        return len(read_header(image, 3).shape)


def _name_channels(pair: Pair, spatial_dims: int) -> tuple[str, ...]:
    if len(pair.images) > 1:
        return tuple(f"channel_{number}" for number in sorted(pair.images))
    count = read_header(_files(pair)[0], spatial_dims).channels
    return {1: ("intensity",), 3: ("red", "green", "blue")}.get(count, tuple(f"channel_{n}" for n in range(count)))
