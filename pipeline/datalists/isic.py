"""The ISIC challenges of 2017 and 2018: photographs of skin lesions through a dermatoscope, the lesion outlined.

Source: 2017, Codella et al. 2018, https://doi.org/10.1109/ISBI.2018.8363547; 2018, Codella et al. 2019,
https://arxiv.org/abs/1902.03368, and Tschandl et al. 2018, https://doi.org/10.1038/sdata.2018.161.
https://challenge.isic-archive.com/data.
Licence: 2017 CC0-1.0, 2018 CC-BY-NC-4.0.

Layout, either year; validation and test may be missing:

    <folder>/ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg
             ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png    0 and 255
             ISIC2018_Task1-2_Validation_Input/, ISIC2018_Task1_Validation_GroundTruth/
             ISIC2018_Task1-2_Test_Input/, ISIC2018_Task1_Test_GroundTruth/
    or
    <folder>/ISIC-2017_Training_Data/ISIC_0000000.jpg    ISIC_0000000_superpixels.png is not used
             ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png
             ISIC-2017_Validation_Data/, ISIC-2017_Validation_Part1_GroundTruth/
             ISIC-2017_Test_v2_Data/, ISIC-2017_Test_v2_Part1_GroundTruth/
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

from pipeline.datalists.datalist import SPLITS, Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.datalists.masks import read_mask
from pipeline.volumes.reading import read_header


class Challenge(NamedTuple):
    """A year's folders, with {} for the part, and its terms."""

    images: str
    masks: str
    parts: tuple[str, str, str]  # in the order of SPLITS
    source: str
    licence: str


CHALLENGES = {
    "isic2017": Challenge(
        images="ISIC-2017_{}_Data",
        masks="ISIC-2017_{}_Part1_GroundTruth",
        parts=("Training", "Validation", "Test_v2"),
        source="https://challenge.isic-archive.com/data, https://doi.org/10.1109/ISBI.2018.8363547",
        licence="CC0-1.0",
    ),
    "isic2018": Challenge(
        images="ISIC2018_Task1-2_{}_Input",
        masks="ISIC2018_Task1_{}_GroundTruth",
        parts=("Training", "Validation", "Test"),
        source="https://challenge.isic-archive.com/data, https://arxiv.org/abs/1902.03368",
        licence="CC-BY-NC-4.0",
    ),
}


class Photograph(NamedTuple):
    """An image and its mask, which only a test image may lack."""

    image: Path
    mask: Path | None
    split: str


def list_isic(
    folder: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    *,
    n_folds: int | None = None,
    seed: int = 0,
) -> Listing:
    """List the photographs in their published splits, with the label maps 0 skin, 1 lesion.

    Args:
        folder: holds the unpacked archives of one year.
        dataset_dir: where the label maps go, and links to the images; `data/isic2017` or `data/isic2018` unless given.
        n_folds: deal the training and validation images into folds instead; 5 unless given where no validation image
            has a mask.
        seed: seed of the folds.
    """
    top = Path(folder).resolve()
    years = [name for name, year in CHALLENGES.items() if (top / year.images.format("Training")).is_dir()]
    if len(years) != 1:
        reason = "has the training images of both years" if years else "has no folder of training images"
        raise wrong_layout(folder, reason, __doc__)
    challenge, left_out = CHALLENGES[years[0]], LeftOut()
    found = [photo for split in SPLITS for photo in _find_photographs(top, challenge, split, left_out)]
    if not any(photo.split == "training" for photo in found):
        raise wrong_layout(folder, "has no training image with a mask", __doc__)
    target = DatasetFolder(top, dataset_dir, converted=years[0])

    def convert(photo: Photograph) -> tuple[str, str | None]:
        name, label = photo.image.stem, None
        read_header(photo.image, 2, name)
        if photo.mask is not None:
            label = target.write(f"labels/{name}.png", read_mask(photo.mask, case=name)[None].astype("u1"), name)
        return target.use(photo.image, f"images/{name}.jpg"), label

    converted = {photo: files for photo, files in convert_most(found, convert, f"masks in '{top}'", left_out)}
    open_ids = [photo.image.stem for photo in converted if photo.split != "test"]
    folds: dict[str, int] = {}
    if n_folds is not None or not any(photo.split == "validation" for photo in converted):
        folds = assign_folds(open_ids, [None] * len(open_ids), n_folds or 5, seed)
    places = {
        photo: (folds.get(photo.image.stem), None if photo.image.stem in folds else photo.split) for photo in converted
    }
    data_list = DataList(
        name=years[0],
        description=f"{len(converted)} photographs of skin lesions through a dermatoscope.",
        licence=challenge.licence,
        source=challenge.source,
        made_by=f"pipeline.datalists.isic.list_isic, {n_folds=}, {seed=}",
        spatial_dims=2,
        label_kind="classes",
        classes=("skin", "lesion"),
        channels=("red", "green", "blue"),
        cases=tuple(Case(photo.image.stem, *files, None, *places[photo]) for photo, files in converted.items()),
    )
    return Listing(data_list, target.root, left_out)


def _find_photographs(top: Path, challenge: Challenge, split: str, left_out: LeftOut) -> list[Photograph]:
    """The images of a split; a training or validation image without a mask is left out."""
    part = challenge.parts[SPLITS.index(split)]
    images, masks = top / challenge.images.format(part), top / challenge.masks.format(part)
    found = []
    for image in sorted(images.glob("[!.]*.jpg")):
        mask = masks / f"{image.stem}_segmentation.png"
        if mask.is_file() or split == "test":
            found.append(Photograph(image, mask if mask.is_file() else None, split))
        else:
            left_out.append((image, f"the {split} image has no mask"))
    known = {photo.mask for photo in found}
    left_out += [(mask, "the mask has no image") for mask in sorted(masks.glob("[!.]*.png")) if mask not in known]
    return found
