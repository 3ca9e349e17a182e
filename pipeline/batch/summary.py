"""What a batch came to: a row for each case, with the volume of every class, as a table and as JSON."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable, Mapping, Sequence
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import ImageMetaKey, convert_to_numpy

from pipeline.batch.clock import STAGES
from pipeline.errors import InputError, plain_cell
from pipeline.volumes.atomic import atomic_write_bytes, write_json
from pipeline.volumes.reading import has_geometry
from pipeline.volumes.voxels import count_labels

COLUMNS = ("case", "status", "reason", "seconds", *(f"seconds_{stage}" for stage in STAGES))
GRID = ("shape", "spacing")


def measure(item: Mapping[Hashable, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the shape, the spacing in mm, and for each class the number of voxels and their volume in ml.

    `ml/<class>` is there for the classes above the background of a volume, `spacing` wherever the file knows where its
    voxels lie, which a picture does not. Labels beyond the names are counted as ``label <n>``.

    Args:
        item: its `pred` is a label map (1, *spatial) on the grid of its file, as it goes to the writers.
        class_names: name of each label from 0 on, the background first.
    """
    pred = item["pred"]
    labels = convert_to_numpy(pred)[0]
    affine = convert_to_numpy(pred.affine) if has_geometry(_file_of(item)) else None
    return measured(labels.shape, affine, count_labels(labels, len(class_names)), class_names)


def measured(
    shape: Sequence[int], affine: np.ndarray | None, counts: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Return what `measure` does of a label map that has been counted.

    Args:
        shape: of the label map.
        affine: (4, 4), from voxel index to millimetres; None where nobody knows.
        counts: voxels of the labels 0, 1, ...
        class_names: name of each label from 0 on, the background first.
    """
    row: dict[str, Any] = {"shape": list(shape)}
    edges = None
    if affine is not None:
        edges = np.linalg.norm(affine[:3, : len(shape)], axis=0)
        row["spacing"] = [_short(edge) for edge in edges]
    for number, count in enumerate(counts.tolist()):
        if number < len(class_names):
            row[f"voxels/{class_names[number]}"] = count
        elif count:
            row[f"voxels/label {number}"] = count
    if edges is not None and len(shape) == 3:
        volumes = {name: row[name] * np.prod(edges) / 1000 for name in list(row) if name.startswith("voxels/")}
        row |= {name.replace("voxels/", "ml/", 1): _short(volume) for name, volume in list(volumes.items())[1:]}
    return row


def write_summary(stem: str | PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as ``<stem>.csv`` and ``<stem>.json``, sorted by case; each file appears whole or not at all.

    The table is for people and their spreadsheets (`plain_cell`); the JSON has every name as it is.

    Args:
        stem: path without a suffix, such as ``out/summary`` or ``out/summary-0-of-4``.
        rows: the first three columns are `case`, `status` and `reason`; a row may lack any of the others.
    """
    ordered = sorted(({key: _plain(value) for key, value in row.items()} for row in rows), key=lambda row: row["case"])
    text = StringIO()
    writer = csv.DictWriter(text, _columns(ordered), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(key, value) for key, value in row.items()} for row in ordered)
    # A file's name need not be UTF-8: its bytes go out as they came in.
    atomic_write_bytes(f"{stem}.csv", text.getvalue().encode(errors="surrogateescape"))
    write_json(f"{stem}.json", ordered)


def clashes(cases: Iterable[str], postfixes: Sequence[str]) -> list[InputError]:
    """Return an error for each case that would share an output's name with another, such as "a" + "_prob" and "a_prob".

    Args:
        cases: ids, each once.
        postfixes: of all writers that are used, "" for the label map.
    """
    owner = {case: case for case in cases}
    problems = []
    for case in list(owner):
        for postfix in filter(None, postfixes):
            other = owner.setdefault(case + postfix, case)
            if other != case:
                reason = f"its result would have the name of the {postfix} file of case '{case}'"
                problems.append(InputError(reason, case=other, remedy="rename the input, or predict it on its own"))
    return problems


def _file_of(item: Mapping[Hashable, Any]) -> Path:
    metas = [getattr(item.get(key), "meta", {}) for key in ("pred", "image")]
    return Path(next(meta[ImageMetaKey.FILENAME_OR_OBJ] for meta in metas if meta.get(ImageMetaKey.FILENAME_OR_OBJ)))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    present = list(dict.fromkeys([*COLUMNS[:3], *(name for row in rows for name in row)]))
    known = [name for name in (*COLUMNS, *GRID) if name in present]
    measured = [name for part in ("voxels/", "ml/") for name in present if name.startswith(part)]
    others = [name for name in present if name not in (*known, *measured, "outputs")]
    return [*known, *measured, *others, *(["outputs"] if "outputs" in present else [])]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, PathLike) else value


def _cell(name: str, value: Any) -> Any:
    if isinstance(value, list):
        value = (" x " if name in GRID else "; ").join(map(str, value))
    return plain_cell(value) if isinstance(value, str) else value


def _short(value: float) -> float:
    return float(f"{value:.6g}")
