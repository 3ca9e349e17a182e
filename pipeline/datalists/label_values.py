"""The values that labels hold: whether they are class numbers, or masks of 0 and one other value such as 255."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most
from pipeline.datalists.masks import read_mask
from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume, suffix_of

MOST_CLASSES = 32  # a label map with more values than that numbers objects, most likely
WITHOUT_GEOMETRY = {2: ".png", 3: ".tif"}  # by spatial axes, for labels that are pictures


def read_label_values(labels: Mapping[str, Path], spatial_dims: int, left_out: LeftOut) -> dict[str, set[int]]:
    """Return the distinct values of every case's label; a label that cannot be read goes to `left_out`."""

    def look(case: str) -> set[int]:
        return set(np.unique(read_volume(labels[case], spatial_dims, case, "label").array).tolist())

    return dict(convert_most(labels, look, "reading labels", left_out))


def find_mask_value(values: set[int], n_classes: int | None = None) -> int | None:
    """Return v where all labels together hold 0 and v, and v is no class number: {0, 255}, but {0, 2} of 3 classes not.

    Args:
        values: of all labels.
        n_classes: how many classes the user names; None if the labels decide.
    """
    if 0 not in values or len(values) != 2 or values == {0, 1} or n_classes not in (None, 2):
        return None
    return next(iter(values - {0}))


def name_classes(values: set[int]) -> list[str]:
    """Name the values 0, 1, ... "background", "class_1", ...; other values are an error."""
    found = sorted(values)
    if found == [0]:
        raise InputError("every label is empty", remedy="check the labels, or name the classes yourself")
    if found != list(range(len(found))) or len(found) > MOST_CLASSES:
        shown = f"{found[:8]}"[:-1] + (", ...]" if len(found) > 8 else "]")
        reason = (
            f"the {len(found)} label values {shown} are not the numbers 0, 1, ... of at most {MOST_CLASSES} classes"
        )
        raise InputError(reason, remedy=_remedy(found))
    return ["background", *(f"class_{value}" for value in found[1:])]


def check_classes(values: Mapping[str, set[int]], labels: Mapping[str, Path], classes: Sequence[str]) -> None:
    """Raise where a label holds what is no number of the named classes; the first such case is named."""
    known = set(range(len(classes)))
    wrong = sorted(set().union(*values.values()) - known)
    if not wrong:
        return
    case = next(case for case, found in values.items() if found - known)
    shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
    reason = f"label values {shown} are not among the classes 0..{len(classes) - 1} ({', '.join(classes)})"
    everything = sorted(set().union(*values.values()))
    mask = find_mask_value(set(everything))
    remedy = f"name two classes for the values 0 and {mask}" if mask is not None else _remedy(everything)
    raise InputError(reason, case=case, file=labels[case], remedy=remedy)


def write_mask(target: DatasetFolder, label: Path, name: str, case: str, spatial_dims: int) -> str:
    """Write a label of 0 and one other value as 0 and 1, with its geometry if it has one, and return its path.

    Args:
        target: where it goes.
        label: the file that the user has.
        name: its path below `target`; the suffix becomes one that can be written.
        case: id for error messages.
        spatial_dims: 2 or 3.
    """
    header = read_header(label, spatial_dims, case, "label")
    pictured = header.format in ("TIFF", "PNG", "BMP")
    suffix = WITHOUT_GEOMETRY[spatial_dims] if pictured else ".nii.gz"
    mask = read_mask(label, spatial_dims, case, "label")[None].astype(np.uint8)
    affine = None if pictured else header.affine
    return target.write(f"{name[: -len(suffix_of(label))]}{suffix}", mask, case, affine)


def _remedy(values: Sequence[int]) -> str:
    if values[0] >= 0 and values[-1] < MOST_CLASSES:
        return f"renumber the labels, or name {values[-1] + 1} classes with --classes"
    return "renumber the labels, or say --label-kind instances if they number objects"
