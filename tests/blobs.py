"""Volumes small enough to train on in a second, each scanned in another orientation and spacing."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from discs import ROOT

UNET3D = ROOT / "bundles" / "unet3d"
ORIENTATIONS = ("RAS", "LPS", "PSR", "LAS", "SRA", "RPI", "ASL", "RAS")
CLASSES = ("background", "liver", "kidney", "vessel")


def draw_blobs(number: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of bright balls, one for each class and the brighter the higher it is, as (image, labels, affine)."""
    random = np.random.default_rng(number)
    spacing = random.uniform([0.9, 0.9, 2.0], [1.1, 1.1, 4.0])
    shape = np.ceil([32, 32, 32] / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = random.uniform(-20, 20, 3)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    labels = np.zeros(shape, np.uint8)
    for label in range(1, classes):
        centre = [32 * label / classes, *random.uniform(10, 22, 2)]
        labels[np.linalg.norm(places - centre, axis=-1) < 6] = label
    image = (100 * labels + random.normal(0, 20, shape)).astype(np.int16)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(ORIENTATIONS[number % len(ORIENTATIONS)])
    )
    affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    return *(np.ascontiguousarray(nib.orientations.apply_orientation(array, turn)) for array in (image, labels)), affine


def write_blobs(folder: Path, count: int = 8, classes: Sequence[str] = CLASSES, channels: int = 1) -> Path:
    """Write a data set of `count` cases (the last two are the test split) and return its list.

    Of two channels, even cases have one file of four axes, the others two files.
    """
    cases = []
    for number in range(count):
        image, labels, affine = draw_blobs(number, len(classes))
        stack = [image, 300 - image][:channels]
        name = f"blobs_{number}"
        images = [f"images/{name}.nii.gz"]
        if channels > 1 and number % 2:
            images = [f"images/{name}_{channel}.nii.gz" for channel in range(channels)]
        arrays = [np.stack(stack, axis=-1)] if len(images) < channels else stack
        for file, array in [*zip(images, arrays, strict=True), (f"labels/{name}.nii.gz", labels)]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / file)
        place = {"split": "test"} if number >= count - 2 else {"fold": number % 2}
        image_entry = images if len(images) > 1 else images[0]
        cases.append({"id": name, "image": image_entry, "label": f"labels/{name}.nii.gz"} | place)
    content = {
        "name": "blobs",
        "description": "blobs",
        "licence": "CC0-1.0",
        "source": "tests",
        "made_by": "tests",
        "spatial_dims": 3,
        "label_kind": "classes",
        "classes": list(classes),
        "channels": ["first", "second"][:channels],
        "cases": cases,
    }
    (folder / "blobs.json").write_text(json.dumps(content))
    return folder / "blobs.json"


def small_training_3d(folder: Path) -> dict:
    """Overrides that let bundles/unet3d train on `folder` in a second or two."""
    return {
        "network_def#channels": [4, 8],
        "network_def#strides": [[2, 2, 1]],
        "crop_size": [16, 16, 8],
        "tiling#overlap": 0.1,
        "batch_size": 2,
        "crops_per_case": 1,
        "epochs": 2,
        "dataset_dir": str(folder),
        "data_list": str(folder / "blobs.json"),
        "bundle_root": str(UNET3D),
        "device": "cpu",
        "mlflow#system_metrics_every": 0,
    }
