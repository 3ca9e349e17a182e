"""Draw docs/first_screen.png: a field, its cells, and the cells that two trained networks tell apart.

python docs/first_screen.py --run runs/plain --border-run runs/border --case cells_025
(runs/plain: train.json with --epochs 40; runs/border: the same with the overlay loss_border.yaml)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy import ndimage

from pipeline import figures
from pipeline.inference import predict_with_bundle

DATA = Path("data/cells")


def main() -> None:
    """Predict one test image with both runs and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--border-run", required=True)
    parser.add_argument("--case", default="cells_025")
    options = parser.parse_args()
    image = tifffile.imread(DATA / "images" / "test" / f"{options.case}.tif")
    truth = tifffile.imread(DATA / "labels" / "test" / f"{options.case}.tif")
    panels = [("a field", image), (f"truth: {truth.max()} cells", truth)]
    for run, name in ((options.run, "Dice + cross-entropy"), (options.border_run, "with border weights")):
        instances, count = ndimage.label(predicted(run, options.case))
        panels.append((f"{name}: {count} pieces", instances))
    figures.save(drawn(panels), Path("docs/first_screen.png"), dpi=100)


def predicted(run: str, case: str) -> np.ndarray:
    """The label map that a run's network gives for a test case."""
    with tempfile.TemporaryDirectory() as folder:
        predict_with_bundle(run, str(DATA / "images" / "test"), folder)
        return tifffile.imread(Path(folder) / f"{case}.tif")


def drawn(panels: list[tuple[str, np.ndarray]]) -> Figure:
    """The panels in a row; instances in shuffled colours, so that neighbours differ."""
    colours = np.random.default_rng(3).uniform(0.25, 1, (256, 3))
    colours[0] = 0.08
    figure = Figure(figsize=(12, 3.3), layout="constrained")
    for axes, (title, content) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        if content.dtype == np.uint16 and content.max() > 255:
            axes.imshow(content, cmap="gray", vmax=np.percentile(content, 99.7))
        else:
            axes.imshow(content, cmap=ListedColormap(colours), vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=11)
    return figure


if __name__ == "__main__":
    main()
