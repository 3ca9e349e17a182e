"""The data sets that come with the code: their lists, and their files, drawn on the spot where they are missing."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import tifffile
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.datalists.datalist import Case, DataList, assign_folds, load_data_list
from pipeline.errors import InputError
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs
from pipeline.volumes.atomic import atomic_path

N_FOLDS = 4
Pictures = tuple[bytes, bytes]  # the content of the image's and of the label's file


@dataclass(frozen=True)
class EmbeddedSet:
    """What a set holds and how a case is drawn: `draw(seed, number)` gives the content of its two files."""

    description: str
    source: str
    seed: int
    spatial_dims: int
    label_kind: Literal["instances", "classes"]
    classes: tuple[str, ...]
    channel: str
    suffix: str
    n_folded: int  # cases in folds
    n_test: int
    draw: Callable[[int, int], Pictures]
    group: str | None = None  # what two cases in a row share


def make_data_list(name: str) -> DataList:
    """The list of an embedded set: four folds and a test split, groups undivided.

    Args:
        name: "cells" (30 fields, two a slide) or "organs" (15 volumes).
    """
    made = _find(name)
    numbers = range(made.n_folded + made.n_test)
    ids = [f"{name}_{number:03d}" for number in numbers]
    groups = [f"{made.group}_{number // 2:02d}" if made.group else None for number in numbers]
    folds = assign_folds(ids[: made.n_folded], groups[: made.n_folded], N_FOLDS, made.seed)
    return DataList(
        name=name,
        description=made.description,
        licence="CC0-1.0",
        source=made.source,
        made_by=f"python -m pipeline datalist embedded {name} -o data_lists/{name}.json",
        generator={"name": name, "seed": made.seed},
        spatial_dims=made.spatial_dims,
        label_kind=made.label_kind,
        classes=made.classes,
        channels=(made.channel,),
        cases=tuple(
            Case(
                id=case,
                image=f"images/{'' if case in folds else 'test/'}{case}{made.suffix}",
                label=f"labels/{'' if case in folds else 'test/'}{case}{made.suffix}",
                group=group,
                fold=folds.get(case),
                split=None if case in folds else "test",
            )
            for case, group in zip(ids, groups, strict=True)
        ),
    )


def ensure_data(data_list: DataList | str | PathLike[str], dataset_dir: str | PathLike[str]) -> list[Path]:
    """Draw the files of an embedded set that are missing, and return them; a list without a generator needs nothing.

    A file that exists is never touched, and a file appears whole or not at all, so two processes may do this at once.

    Args:
        data_list: the list or its path.
        dataset_dir: the folder that the list's paths are relative to.
    """
    listed = data_list if isinstance(data_list, DataList) else load_data_list(data_list)
    if listed.generator is None:
        return []
    root, written = Path(dataset_dir), []
    incomplete = [case for case in listed.cases if not all((root / file).exists() for file in _files(case))]
    numbers = [_number(case, listed.generator) for case in incomplete]
    made, seed = _find(listed.generator["name"]), listed.generator["seed"]
    for case, number in zip(tqdm(incomplete, f"drawing '{listed.name}'", delay=2), numbers, strict=True):
        for file, content in zip(_files(case), made.draw(seed, number), strict=False):
            if not (root / file).exists():
                _write(root / file, content)
                written.append(root / file)
    return written


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
        raise InputError(reason, file=file, remedy="give another --dataset_dir, or make room there") from error


def _find(name: str) -> EmbeddedSet:
    if name not in EMBEDDED:
        raise InputError(f"there is no embedded set '{name}'", remedy=f"choose one of {', '.join(EMBEDDED)}")
    return EMBEDDED[name]


def _files(case: Case) -> tuple[str, ...]:
    return case.images if case.label is None else (*case.images, case.label)


def _number(case: Case, generator: Mapping[str, Any]) -> int:
    """The number in a case's id, which its seed depends on, so that a shortened list draws the same pictures."""
    name, suffix = generator["name"], _find(generator["name"]).suffix
    match = re.fullmatch(rf"{re.escape(name)}_(\d+)", case.id)
    if match is None or len(case.images) != 1 or not all(file.endswith(suffix) for file in _files(case)):
        raise InputError(
            f"the generator '{name}' cannot draw this case's files {', '.join(_files(case))}",
            case=case.id,
            remedy=f"name the case '{name}_000', with one image and one label in '{suffix}'",
        )
    return int(match[1])


def _draw_cells(seed: int, number: int) -> Pictures:
    # Two fields make a slide; its own stream keeps apart from that of the fields.
    image, instances = make_cells([seed, number], slide=[seed, number // 2, 1])
    return _tiff(image), _tiff(instances)


def _draw_organs(seed: int, number: int) -> Pictures:
    scan = make_organs([seed, number])
    return _nifti(scan.volume, scan.affine), _nifti(scan.labels, scan.affine)


def _tiff(array: NDArray[np.uint16]) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack")
    return buffer.getvalue()


def _nifti(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)  # no date in it: equal seeds give equal files


EMBEDDED = {
    "cells": EmbeddedSet(
        description="Fluorescence-like fields of touching cells under uneven light, 16 bit, with numbered instances.",
        source="drawn by pipeline.synthetic.cells.make_cells",
        seed=2015,
        spatial_dims=2,
        label_kind="instances",
        classes=("background", "cell"),
        channel="intensity",
        suffix=".tif",
        n_folded=24,
        n_test=6,
        draw=_draw_cells,
        group="slide",
    ),
    "organs": EmbeddedSet(
        description="CT-like scans of a small body, 64 x 64 x 32, oblique grids of differing orientation and spacing.",
        source="drawn by pipeline.synthetic.organs.make_organs",
        seed=2016,
        spatial_dims=3,
        label_kind="classes",
        classes=("background", "liver", "kidney", "vessel"),
        channel="ct",
        suffix=".nii.gz",
        n_folded=12,
        n_test=3,
        draw=_draw_organs,
    ),
}
