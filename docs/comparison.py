"""Train six small runs of which two are better on purpose, compare them, and take the picture of the page.

python docs/comparison.py
(runs, data and the store go to runs/comparison; the picture, docs/comparison.png, needs Chromium)

Three variants with two seeds each, on fields of cells that the package draws: `default`; `fewer-flips`, which changes
nothing that matters, for the fields are turned by any angle already; and `longer`, the planted one, with three times
the epochs. Twelve fields train, twenty-four others are scored.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from pipeline.compare import compare
from pipeline.datalists.datalist import Case, DataList, save_data_list
from pipeline.datalists.embedded import make_data_list

BUNDLE = Path(__file__).parents[1] / "bundles" / "unet"
TRAINING, SCORED = 12, 24
BUDGET: dict[str, Any] = {
    "network_def#channels": [8, 16, 32, 64],
    "crop_size": [128, 128],
    "crops_per_case": 4,
    "val_interval": 2,
    "epochs": 6,
    "device": "cpu",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fewer-flips": {"spatial_augmentation#flip_prob": 0.4},
    "longer": {"epochs": 18},
}
SEEDS = (0, 1)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Train what is not trained yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/comparison"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    listed = folder / "drawn_cells.json"
    save_data_list(drawn_cells(), listed)
    uri = f"sqlite:///{folder}/mlflow.db"
    for name, changes in VARIANTS.items():
        for seed in SEEDS:
            if not (folder / f"{name}-{seed}" / "models" / "model.pt").is_file():
                train(folder, listed, uri, f"{name}-{seed}", {**BUDGET, **changes, "seed": seed})
    compare(uri=uri, baseline="default-0", output=folder / "page")
    take_picture(folder / "page" / "comparison.html", Path("docs/comparison.png"))


def drawn_cells() -> DataList:
    """A list like that of the embedded cells, with more cases to score."""
    embedded = make_data_list("cells")
    cases = []
    for number in range(TRAINING + SCORED):
        name, split = f"cells_{number:03d}", "training" if number < TRAINING else "validation"
        paths = (f"{kind}/{name}.tif" for kind in ("images", "labels"))
        cases.append(Case(name, *paths, group=f"slide_{number // 2:02d}", split=split))
    return replace(embedded, name="drawn_cells", made_by="python docs/comparison.py", cases=tuple(cases))


def train(folder: Path, listed: Path, uri: str, name: str, overrides: dict[str, Any]) -> None:
    """Run the 2D bundle's training."""
    places = {"data_list": str(listed), "dataset_dir": str(folder / "data")}
    workflow = ConfigWorkflow(
        str(BUNDLE / "configs" / "train.json"),
        workflow_type="training",
        run_id="training",
        logging_file=False,
        **places,
        output_dir=str(folder),
        run_name=name,
        **overrides,
        **{"mlflow#uri": uri},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def take_picture(page: Path, picture: Path) -> None:
    """Let a browser without a window draw the beginning of a page."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium here: no picture")
        return
    options = ["--headless", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    options += ["--no-sandbox"] if os.getuid() == 0 else []
    options += ["--window-size=1200,900", f"--screenshot={picture.resolve()}", page.resolve().as_uri()]
    subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
