"""Images small enough to train on in a second."""

import json
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).parents[1]
UNET = ROOT / "bundles" / "unet"


def draw_discs(number: int, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc or two on a dark, noisy field, as (image, instances): the position depends on the number."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:size, :size]
    instances = np.zeros((size, size), np.uint16)
    for label, (row, column) in enumerate(random.uniform(10, size - 10, (2, 2)), 1):
        instances[(rows - row) ** 2 + (columns - column) ** 2 < 7**2] = label
    image = 1000 + 2000 * (instances > 0) + random.normal(0, 200, instances.shape)
    return image.clip(0, 65535).astype(np.uint16), instances


def write_discs(folder: Path, count: int = 8, size: int = 48) -> Path:
    """Write a data set of `count` cases (the last two are the test split) and return its list."""
    cases = []
    for number in range(count):
        for kind, array in zip(("images", "labels"), draw_discs(number, size), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"disc_{number}.tif", array)
        place = {"split": "test"} if number >= count - 2 else {"fold": number % 2}
        cases.append(
            {"id": f"disc_{number}", "image": f"images/disc_{number}.tif", "label": f"labels/disc_{number}.tif"} | place
        )
    content = {
        "name": "discs",
        "description": "discs",
        "licence": "CC0-1.0",
        "source": "tests",
        "made_by": "tests",
        "spatial_dims": 2,
        "label_kind": "instances",
        "classes": ["background", "cell"],
        "channels": ["intensity"],
        "cases": cases,
    }
    (folder / "discs.json").write_text(json.dumps(content))
    return folder / "discs.json"


def small_training(folder: Path) -> dict:
    """Overrides that let bundles/unet train on `folder` in about a second."""
    return {
        "network_def#channels": [4, 8],
        "crop_size": [32, 32],
        "batch_size": 2,
        "crops_per_case": 1,
        "epochs": 2,
        "dataset_dir": str(folder),
        "data_list": str(folder / "discs.json"),
        "bundle_root": str(UNET),
        "device": "cpu",
        "mlflow#system_metrics_every": 0,
    }
