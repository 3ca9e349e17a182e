"""BBBC039: fluorescent nuclei of U2OS cells in a chemical screen, 200 fields of 520 x 696, numbered objects.

Source: Caicedo et al. 2019, https://doi.org/10.1002/cyto.a.23863; https://bbbc.broadinstitute.org/BBBC039.
Licence: CC0-1.0.

Layout:

    <folder>/images/<name>.tif       16 bit, <name> such as IXMtest_A02_s1_w1051DAA7C-...: well A02, field 1
             masks/<name>.png        RGBA; a nucleus is a connected area of one value in the first channel
             metadata/training.txt, validation.txt, test.txt    <name>.png, one a line
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import label as number_areas

from pipeline.datalists.datalist import SPLITS, Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE
from pipeline.volumes.reading import read_header


def list_bbbc039(
    folder: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    *,
    n_folds: int | None = None,
    seed: int = 0,
) -> Listing:
    """List the fields in their published splits, with 16-bit maps of numbered nuclei.

    Args:
        folder: holds images, masks and metadata.
        dataset_dir: where the label maps go, and links to the images; `data/bbbc039` unless given.
        n_folds: deal the training and validation fields into folds instead, the fields of a well together. The
            published splits divide wells, and so does the test set in either case.
        seed: seed of the folds.
    """
    top = Path(folder).resolve()
    left_out: LeftOut = []
    splits = _read_splits(top)
    images, masks = (
        {file.stem: file for file in sorted((top / place).glob(f"[!.]*{suffix}"))}
        for place, suffix in (("images", ".tif"), ("masks", ".png"))
    )
    left_out += [(images[name], "metadata puts it into no split") for name in images if name not in splits]
    left_out += [(images[name], "the image has no mask") for name in images if name in splits and name not in masks]
    left_out += [(masks[name], "the mask has no image") for name in masks if name not in images]
    names = [name for name in images if name in splits and name in masks]
    if not names:
        raise wrong_layout(folder, "has no image with a mask and a split", __doc__)
    target = DatasetFolder(top, dataset_dir, converted="bbbc039")

    def convert(name: str) -> tuple[str, str]:
        read_header(images[name], 2, name)
        label = target.write(f"labels/{name}.png", _number_nuclei(masks[name], name)[None], name)
        return target.use(images[name], f"images/{name}.tif"), label

    converted = convert_most(names, convert, f"fields in '{top}'", left_out)
    groups: dict[str, str | None] = {}
    folds: dict[str, int] = {}
    if n_folds is not None:
        groups = {name: _well(name) for name, _ in converted if splits[name] != "test"}
        folds = assign_folds(list(groups), list(groups.values()), n_folds, seed)
    data_list = DataList(
        name="bbbc039",
        description=f"{len(converted)} fields of Hoechst-stained nuclei of U2OS cells.",
        licence="CC0-1.0",
        source="https://bbbc.broadinstitute.org/BBBC039, https://doi.org/10.1002/cyto.a.23863",
        made_by=f"pipeline.datalists.bbbc039.list_bbbc039, {n_folds=}, {seed=}",
        spatial_dims=2,
        label_kind="instances",
        classes=("background", "nucleus"),
        channels=("hoechst",),
        cases=tuple(
            Case(name, *files, groups.get(name), folds.get(name), None if name in folds else splits[name])
            for name, files in converted
        ),
    )
    return Listing(data_list, target.root, left_out)


def _read_splits(top: Path) -> dict[str, str]:
    """The split of every name in metadata; a name in two of them is an error."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        file = top / "metadata" / f"{split}.txt"
        if not file.is_file():
            raise wrong_layout(top, f"has no metadata/{split}.txt", __doc__)
        for line in file.read_text().splitlines():
            name = line.strip().removesuffix(".png").removesuffix(".tif")
            if name and splits.setdefault(name, split) != split:
                reason = f"is in {splits[name]}.txt, too"
                raise InputError(reason, case=name, file=file, remedy="fetch metadata again from its source")
    return splits


def _well(name: str) -> str | None:
    match = re.match(r"[^_]+_([A-P]\d\d)_s\d", name)
    return match[1] if match else None


def _number_nuclei(file: Path, case: str) -> np.ndarray:
    """Number the connected areas of one value, (rows, columns), uint16; corners connect, alpha is not looked at."""
    try:
        with Image.open(file) as image:
            first = np.asarray(image.getchannel(0))
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot be read ({error})", case=case, file=file, remedy=RESTORE) from error
    return number_areas(first, background=0, connectivity=2).astype(np.uint16)
