"""The 2018 Data Science Bowl (BBBC038): nuclei in many kinds of light microscopy, numbered objects.

Source: Caicedo et al. 2019, https://doi.org/10.1038/s41592-019-0612-7; https://bbbc.broadinstitute.org/BBBC038.
Licence: CC0-1.0.

Layout, as published or with the masks already merged:

    <folder>/stage1_train/<id>/images/<id>.png   often RGBA, opaque
             stage1_train/<id>/masks/*.png       0 and 255, one nucleus each
             stage1_test/<id>/images/<id>.png    may be missing
    or
    <folder>/images/<id>.png
             labels/<id>.png                     numbered nuclei
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datalists.datalist import Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.datalists.masks import read_mask
from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume

CHANNELS = {"grey": ("intensity",), "rgb": ("red", "green", "blue")}


@dataclass(frozen=True)
class Sample:
    """An image with one mask for each nucleus, or one label, or neither in the test set."""

    id: str
    image: Path
    masks: Sequence[Path] = ()
    label: Path | None = None
    test: bool = False


def list_dsb2018(
    folder: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    *,
    channels: Literal["grey", "rgb"] | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> Listing:
    """List the images as cases with 16-bit maps of numbered nuclei, merged from their masks where need be.

    Every image gets the same channels: an image whose three colours are equal counts as grey, an opaque alpha channel
    is dropped. A pixel of several masks belongs to the first by name; the others are reported.

    Args:
        folder: holds stage1_train, or images and labels.
        dataset_dir: where merged maps and changed images go, and links to what stays as it is; unless given,
            `data/dsb2018` if something is changed, otherwise `folder`.
        channels: "grey" leaves coloured images out, "rgb" repeats a grey value; "rgb" if one is coloured.
        n_folds: number of folds of the training images.
        seed: seed of the folds.
    """
    top = Path(folder).resolve()
    left_out: LeftOut = []
    samples = _find_samples(top, left_out)
    seen = convert_most(samples, _is_coloured, f"images in '{top}'", left_out)
    chosen = channels or ("rgb" if any(coloured for _, coloured in seen) else "grey")
    if chosen == "grey":
        left_out += [(sample.image, "is coloured") for sample, coloured in seen if coloured]
    samples = [sample for sample, coloured in seen if chosen == "rgb" or not coloured]
    if all(sample.test for sample in samples):
        raise wrong_layout(folder, "has no training image that can be used", __doc__)
    width = len(CHANNELS[chosen])
    converts = any(sample.masks or read_header(sample.image, 2).channels != width for sample in samples)
    target = DatasetFolder(top, dataset_dir, "dsb2018" if converts else None)

    def convert(sample: Sample) -> tuple[str, str | None]:
        image, label = _fit_channels(sample, width, target), None
        if sample.masks:
            label = target.write(f"labels/{sample.id}.png", _merge_masks(sample, left_out)[None], sample.id)
        elif sample.label is not None:
            label = target.use(sample.label, f"labels/{sample.label.name}")
        return image, label

    converted = convert_most(samples, convert, f"masks in '{top}'", left_out)
    training = [sample.id for sample, _ in converted if not sample.test]
    folds = assign_folds(training, [None] * len(training), n_folds, seed)
    data_list = DataList(
        name="dsb2018",
        description=f"{len(training)} images with numbered nuclei, {'in colour' if chosen == 'rgb' else 'grey'}.",
        licence="CC0-1.0",
        source="https://bbbc.broadinstitute.org/BBBC038, https://doi.org/10.1038/s41592-019-0612-7",
        made_by=f"pipeline.datalists.dsb2018.list_dsb2018, channels={chosen!r}, {n_folds=}, {seed=}",
        spatial_dims=2,
        label_kind="instances",
        classes=("background", "nucleus"),
        channels=CHANNELS[chosen],
        cases=tuple(
            Case(sample.id, *files, fold=folds.get(sample.id), split="test" if sample.test else None)
            for sample, files in converted
        ),
    )
    return Listing(data_list, target.root, left_out)


def _find_samples(top: Path, left_out: LeftOut) -> list[Sample]:
    if (top / "stage1_train").is_dir():
        samples = _find_stage(top / "stage1_train", False, left_out)
        samples += _find_stage(top / "stage1_test", True, left_out)
    elif (top / "images").is_dir() and (top / "labels").is_dir():
        images, labels = (
            {file.stem: file for file in sorted((top / n).glob("[!.]*.png"))} for n in ("images", "labels")
        )
        left_out += [(images[name], "the image has no label") for name in sorted(images.keys() - labels.keys())]
        left_out += [(labels[name], "the label has no image") for name in sorted(labels.keys() - images.keys())]
        samples = [Sample(name, images[name], label=labels[name]) for name in images if name in labels]
    else:
        raise wrong_layout(top, "has neither stage1_train nor the folders images and labels", __doc__)
    return samples


def _find_stage(stage: Path, test: bool, left_out: LeftOut) -> list[Sample]:
    samples = []
    for folder in sorted(stage.glob("[!.]*/")):
        image, masks = folder / "images" / f"{folder.name}.png", sorted((folder / "masks").glob("[!.]*.png"))
        if not image.is_file():
            left_out.append((folder, "has no image of its own name"))
        elif not masks and not test:
            left_out.append((image, "the training image has no masks"))
        else:
            samples.append(Sample(folder.name, image, () if test else masks, test=test))
    return samples


def _is_coloured(sample: Sample) -> bool:
    array = read_volume(sample.image, 2, sample.id).array
    return bool((array != array[0]).any())


def _fit_channels(sample: Sample, width: int, target: DatasetFolder) -> str:
    """The path of the image with as many channels as the list has."""
    name = f"images/{sample.id}.png"
    if read_header(sample.image, 2, sample.id).channels == width:
        return target.use(sample.image, name)
    grey = read_volume(sample.image, 2, sample.id).array[:1]
    return target.write(name, np.repeat(grey, width, axis=0), sample.id)


def _merge_masks(sample: Sample, left_out: LeftOut) -> np.ndarray:
    """Number the masks 1, 2, ... in the order of their names, (rows, columns), uint16."""
    merged = np.zeros(read_header(sample.image, 2, sample.id).shape, np.uint16)
    number = 0
    for file in sample.masks:
        mask = read_mask(file, case=sample.id)
        if mask.shape != merged.shape:
            reason = f"shape {mask.shape} differs from {merged.shape} of the image"
            raise InputError(reason, case=sample.id, file=file, remedy="fetch the data set again from its source")
        own = mask & (merged == 0)
        if not own.any():
            left_out.append((file, "is covered by other masks" if mask.any() else "the mask is empty"))
            continue
        if (own != mask).any():
            left_out.append((file, "overlaps another mask, which keeps the common pixels"))
        number += 1
        merged[own] = number
    return merged
