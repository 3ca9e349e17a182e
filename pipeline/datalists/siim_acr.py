"""SIIM-ACR pneumothorax: frontal chest radiographs, the air beside the lung outlined, most of them without any.

Source: Filice et al. 2020, https://doi.org/10.1007/s10278-019-00299-9;
https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation; the radiographs are of the NIH's ChestX-ray14.
Licence: the competition's rules, for research that is not commercial.

Layout; radiographs may lie in any folder below, those without a row are not used:

    <folder>/train-rle.csv    or stage_2_train.csv: ImageId, EncodedPixels; -1 for no pneumothorax, otherwise a row for
                              each outlined area
             dicom-images-train/<study>/<series>/<ImageId>.dcm

Each pair of EncodedPixels says how many pixels to skip, counted from the end of the run before, and how many to mark;
pixels run down the columns, from left to right.
"""

from __future__ import annotations

import csv
import re
from os import PathLike
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pipeline.datalists.datalist import Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE

TABLES = ("train-rle.csv", "stage_2_train.csv")
PATIENT, COLOURS = "0010|0020", "0028|0004"  # DICOM tags: PatientID, PhotometricInterpretation


def list_siim_acr(
    folder: str | PathLike[str], dataset_dir: str | PathLike[str] | None = None, *, n_folds: int = 5, seed: int = 0
) -> Listing:
    """List the radiographs that have a row as PNG pictures with the label maps 0 background, 1 pneumothorax.

    Args:
        folder: holds the table and, at any depth, the DICOM files.
        dataset_dir: where pictures and label maps go; `data/siim_acr` unless given.
        n_folds: number of folds; radiographs of one patient stay together.
        seed: seed of the folds.
    """
    top = Path(folder).resolve()
    table = next((top / name for name in TABLES if (top / name).is_file()), None)
    left_out: LeftOut = []
    files: dict[str, Path] = {}
    for file in sorted(top.rglob("[!.]*.dcm")):
        if files.setdefault(file.stem, file) != file:
            left_out.append((file, "another file has the same name"))
    if table is None or not files:
        raise wrong_layout(folder, f"has no {' or '.join(TABLES)}" if table is None else "has no .dcm file", __doc__)
    runs = _read_table(table)
    left_out += [(file, f"has no row in {table.name}") for name, file in files.items() if name not in runs]
    left_out += [(table, f"there is no file '{name}.dcm'") for name in runs if name not in files]
    names = [name for name in files if name in runs]
    if not names:
        raise wrong_layout(folder, "has no .dcm file that the table names", __doc__)
    target = DatasetFolder(top, dataset_dir, converted="siim_acr")

    def convert(name: str) -> tuple[str, str, str | None]:
        pixels, patient = _read_radiograph(files[name], name)
        mask = np.zeros(pixels.shape, np.uint8)
        for text in runs[name]:
            mask |= decode_runs(text, pixels.shape, name, table)
        image = target.write(f"images/{name}.png", pixels[None], name)
        return image, target.write(f"labels/{name}.png", mask[None], name), patient

    converted = dict(convert_most(names, convert, f"radiographs in '{top}'", left_out))
    names = list(converted)
    folds = assign_folds(names, [patient for _, _, patient in converted.values()], n_folds, seed)
    marked = sum(bool(runs[name]) for name in names)
    data_list = DataList(
        name="siim_acr",
        description=f"{len(names)} chest radiographs, {marked} with a pneumothorax, {len(names) - marked} without.",
        licence="the rules of the SIIM-ACR competition, for research that is not commercial",
        source="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation, https://doi.org/10.1007/s10278-019-00299-9",
        made_by=f"pipeline.datalists.siim_acr.list_siim_acr, {n_folds=}, {seed=}",
        spatial_dims=2,
        label_kind="classes",
        classes=("background", "pneumothorax"),
        channels=("x-ray",),
        cases=tuple(Case(name, *entry, fold=folds[name]) for name, entry in converted.items()),
    )
    return Listing(data_list, target.root, left_out)


def decode_runs(text: str, shape: tuple[int, ...], case: str | None = None, table: Path | None = None) -> np.ndarray:
    """Decode EncodedPixels into booleans of shape (rows, columns).

    "4 2 3 1" marks the pixels 4, 5 and 9: 6 is the first after the run, 3 are skipped. In 3 rows they are
    (1, 1), (2, 1) and (0, 3).
    """
    rows, columns = shape
    pairs = len(words := text.split()) % 2 == 0 and all(re.fullmatch(r"\d{1,10}", word, re.A) for word in words)
    numbers = np.array(words if pairs else [], dtype=np.int64).reshape(-1, 2)
    ends = numbers.sum(axis=1).cumsum()
    if not pairs or ends.max(initial=0) > rows * columns:
        raise InputError(
            f"EncodedPixels '{text[:40]}' are no pairs of numbers within {rows} x {columns} pixels",
            case=case,
            file=table,
            remedy="fetch the table again from its source",
        )
    flat = np.zeros(rows * columns, bool)
    for end, (_, length) in zip(ends, numbers, strict=True):
        flat[end - length : end] = True
    return flat.reshape(columns, rows).T


def _read_table(table: Path) -> dict[str, list[str]]:
    """The runs of every ImageId; an empty list for an image without a pneumothorax."""
    try:
        return _read_rows(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is no table of text ({error})", file=table, remedy=RESTORE) from error


def _read_rows(table: Path) -> dict[str, list[str]]:
    runs: dict[str, list[str]] = {}
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream, skipinitialspace=True)
        if [name.strip() for name in next(rows, [])] != ["ImageId", "EncodedPixels"]:
            raise wrong_layout(table.parent, f"{table.name} has other columns than ImageId, EncodedPixels", __doc__)
        for line, row in enumerate(rows, 2):
            if len(row) != 2:
                raise InputError(f"line {line} has {len(row)} columns, not 2", file=table, remedy=RESTORE)
            name, text = row[0].strip(), row[1].strip()
            runs.setdefault(name, []).extend([text] if text not in ("", "-1") else [])
    return runs


def _read_radiograph(file: Path, case: str) -> tuple[np.ndarray, str | None]:
    """Pixels, (rows, columns) in 8 or 16 bit with black as 0, and the patient."""
    try:
        image = sitk.ReadImage(str(file), imageIO="GDCMImageIO")
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot be read ({last})", case=case, file=file, remedy=RESTORE) from error
    tags = {key: image.GetMetaData(key).strip() for key in (PATIENT, COLOURS) if image.HasMetaDataKey(key)}
    pixels = sitk.GetArrayFromImage(image)
    colours, stored = tags.get(COLOURS, "MONOCHROME2"), pixels.dtype
    # MONOCHROME1 stores white as 0, as on film: air would be bright here and dark in all others. GDCM has inverted it
    # already, from the end of the stored range: 0 of 12 bits is 4095. Inverting again here would undo that.
    if colours not in ("MONOCHROME1", "MONOCHROME2") or pixels.ndim != 3 or len(pixels) != 1:
        reason = f"is no single greyscale picture: {colours}, shape {pixels.shape}"
        raise InputError(reason, case=case, file=file, remedy="convert it, or remove its row from the table")
    if stored.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        reason = f"has {stored} values from {pixels.min()} to {pixels.max()}"
        raise InputError(reason, case=case, file=file, remedy="convert it to whole numbers from 0 to 65535")
    return pixels[0].astype(np.uint8 if stored == np.uint8 else np.uint16), tags.get(PATIENT) or None
