"""The ISBI 2012 challenge: 30 training and 30 test slices of a fruit fly's nerve cord, membranes traced.

Serial-section transmission electron microscopy of one stack each, 4 x 4 x 50 nm; neighbouring slices look alike, so
the folds are blocks of consecutive slices.

Source: Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142; the images are those of Cardona et al.
2010, https://doi.org/10.1371/journal.pbio.1000502.
Licence: free for research that cites both papers.

Layout, the challenge's stacks or their slices as pictures whose numbers give the order:

    <folder>/train-volume.tif   pages of 8 bit
             train-labels.tif   as many pages, 0 membrane, 255 cell
             test-volume.tif    may be missing
    or
    <folder>/images/00.png, 01.png, ...
             labels/00.png, 01.png, ...   0 membrane, 255 cell
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_all, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.datalists.masks import read_mask
from pipeline.errors import InputError
from pipeline.volumes.reading import SUFFIXES, read_header, read_volume


def list_isbi2012(
    folder: str | PathLike[str], dataset_dir: str | PathLike[str] | None = None, *, n_folds: int = 5
) -> Listing:
    """List the slices as 2D cases with the label maps 0 membrane, 1 cell; a fold is a block of consecutive slices.

    Args:
        folder: the stacks, or the folders images and labels.
        dataset_dir: where slices and label maps go; pictures that can stay as they are become links. Unless given,
            `data/isbi2012`.
        n_folds: number of blocks, at least 2.
    """
    top = Path(folder).resolve()
    left_out: LeftOut = []
    if (top / "train-volume.tif").is_file() and (top / "train-labels.tif").is_file():
        target = DatasetFolder(top, dataset_dir, converted="isbi2012")
        slices = _split_stack(top, "train", target)
        test = _split_stack(top, "test", target) if (top / "test-volume.tif").is_file() else []
    elif (top / "images").is_dir() and (top / "labels").is_dir():
        target = DatasetFolder(top, dataset_dir, converted="isbi2012")
        slices, test = _link_pictures(top, target, left_out), []
    else:
        reason = "has neither train-volume.tif and train-labels.tif nor the folders images and labels"
        raise wrong_layout(folder, reason, __doc__)
    if not 2 <= n_folds <= len(slices):
        remedy = f"choose from 2 to {len(slices)} folds" if len(slices) > 1 else "give more slices"
        raise InputError(f"{len(slices)} slices with labels make no {n_folds} blocks", file=folder, remedy=remedy)
    blocks = [index * n_folds // len(slices) for index in range(len(slices))]
    cases = [Case(*files, group=f"block_{block}", fold=block) for files, block in zip(slices, blocks, strict=True)]
    cases += [Case(name, image, label, split="test") for name, image, label in test]
    data_list = DataList(
        name="isbi2012",
        description=f"{len(slices)} consecutive slices of a fruit fly's nerve cord in {n_folds} blocks, TEM.",
        licence="free for research that cites both papers",
        source="https://doi.org/10.3389/fnana.2015.00142, https://doi.org/10.1371/journal.pbio.1000502",
        made_by=f"pipeline.datalists.isbi2012.list_isbi2012, n_folds={n_folds}",
        spatial_dims=2,
        label_kind="classes",
        classes=("membrane", "cell"),
        channels=("intensity",),
        cases=tuple(cases),
    )
    return Listing(data_list, target.root, left_out)


Slice = tuple[str, str, str | None]  # id, image and label


def _split_stack(top: Path, part: str, target: DatasetFolder) -> list[Slice]:
    """Write the pages of a stack, and of its labels if there are any, as pictures of their own."""
    images, labels_file = read_volume(top / f"{part}-volume.tif", 3), top / f"{part}-labels.tif"
    masks = read_mask(labels_file, 3) if labels_file.is_file() else None
    if masks is not None and masks.shape != images.shape:
        reason = f"shape {masks.shape} differs from {images.shape} of '{images.file}'"
        raise InputError(reason, file=labels_file, remedy="fetch both files again from their source")

    def write(page: int) -> Slice:
        name = f"{part}_{page:02d}"
        image = target.write(f"images/{name}.png", images.array[:, page])
        if masks is None:
            return name, image, None
        return name, image, target.write(f"labels/{name}.png", masks[None, page].astype("u1"))

    return convert_all(range(images.shape[0]), write, f"pages of the {part} stack")


def _link_pictures(top: Path, target: DatasetFolder, left_out: LeftOut) -> list[Slice]:
    images, labels = (_number_files((top / name).iterdir(), left_out) for name in ("images", "labels"))
    left_out += [(images[number], "the slice has no label") for number in sorted(images.keys() - labels.keys())]
    left_out += [(labels[number], "the label has no image") for number in sorted(labels.keys() - images.keys())]

    def convert(number: int) -> Slice:
        image, label = images[number], labels[number]
        read_header(image, 2, image.stem)
        mask = read_mask(label, case=image.stem)
        written = target.write(f"labels/{image.stem}.png", mask[None].astype("u1"), image.stem)
        return image.stem, target.use(image, f"images/{image.name}"), written

    numbers = sorted(images.keys() & labels.keys())
    return [made for _, made in convert_most(numbers, convert, f"labels in '{top}'", left_out)]


def _number_files(files: Iterable[Path], left_out: LeftOut) -> dict[int, Path]:
    """Files by the last number in their name, which is the slice's place in the stack."""
    numbered: dict[int, Path] = {}
    for file in sorted(files):
        number = re.search(r"(\d+)\D*$", file.stem)
        if file.name.startswith("."):
            continue
        if number is None or file.suffix.lower() not in SUFFIXES:
            left_out.append((file, "is no picture with a number in its name"))
        elif (other := numbered.setdefault(int(number[1]), file)) != file:
            reason = f"has the same number as '{other.name}'"
            raise InputError(reason, file=file, remedy="number the slices in their order")
    return numbered
