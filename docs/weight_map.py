"""Draw docs/weight_map.png: what the network is given of a field of the embedded cells, from image to weight map.

python docs/weight_map.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from pipeline import figures
from pipeline.datalists.embedded import ensure_data
from pipeline.transforms.border_weight import border_weight_map, class_weight_map
from pipeline.transforms.instances_to_mask import separate_instances

DATA = Path("data/cells")
CASE = "cells_025"
SHOWN = np.s_[90:230, 90:230]  # a part in which single pixels can be seen
INK = "#202a33"
COLOURS = ("#111111", "#4cb5f5", "#f6a623", "#34b27b", "#e86a92", "#f2e34c", "#8e7cc3", "#e4572e", "#a8d5ba")


def main() -> None:
    """Read one test field and draw the four stages in a row."""
    ensure_data("data_lists/cells.json", DATA)
    image, label = (tifffile.imread(DATA / kind / "test" / f"{CASE}.tif") for kind in ("images", "labels"))
    cells = separate_instances(label, gap=1)
    weight = class_weight_map(cells) + border_weight_map(cells)
    figures.save(
        drawn(*(stage[SHOWN] for stage in (image, label, cells > 0, weight))), Path("docs/weight_map.png"), 110
    )


def drawn(image: np.ndarray, label: np.ndarray, mask: np.ndarray, weight: np.ndarray) -> Figure:
    """The four stages; the weight on a logarithmic scale: a narrow gap weighs 14 times what open background does."""
    figure = Figure(figsize=(13, 3.42), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 4)
    low, high = np.percentile(image, [1, 99.7])
    axes[0].imshow(image, cmap="gray", vmin=low, vmax=high)
    axes[1].imshow(coloured(label), interpolation="nearest")
    axes[2].imshow(mask, cmap="gray", interpolation="nearest")
    shown = axes[3].imshow(weight, cmap="magma", norm=LogNorm(0.5, 10), interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes[3], fraction=0.046, pad=0.02, ticks=[0.5, 1, 2, 5, 10], format="%g")
    bar.ax.minorticks_off()
    bar.ax.tick_params(colors=INK, labelsize=9.5, length=0)
    bar.outline.set_visible(False)
    titles = ("image", "label: a number for each cell", "mask: a line parts what touches", "weight of each pixel")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11.5, color=INK, loc="left", pad=6)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def coloured(label: np.ndarray) -> np.ndarray:
    """Each cell in a colour that no near cell has, (H, W, 3)."""
    chosen = {0: 0}
    for cell in np.unique(label)[1:]:
        taken = {chosen.get(near, 0) for near in np.unique(label[binary_dilation(label == cell, iterations=8)])}
        free = [colour for colour in range(1, len(COLOURS)) if colour not in taken]
        chosen[cell] = free[cell % len(free)]
    palette = np.array([to_rgb(COLOURS[chosen.get(cell, 0)]) for cell in range(label.max() + 1)])
    return palette[label]


if __name__ == "__main__":
    main()
