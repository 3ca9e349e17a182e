"""Pictures of runs and cases, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipeline.volumes.atomic import atomic_path

Array = NDArray[Any]

# Told apart by readers with any colour vision (Okabe and Ito): blue right, orange missed, magenta invented.
RIGHT, MISSED, INVENTED = (0.0, 0.45, 0.70), (0.90, 0.62, 0.0), (0.80, 0.0, 0.47)


def save(figure: Figure, file: Path, dpi: int = 110) -> None:
    """Write a figure as PNG, by rename."""
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def curves(
    history: Sequence[Mapping[str, float]], metric: str = "val/mean_dice", others: Sequence[str] = ("val/accuracy",)
) -> Figure:
    """Draw the loss and validation scores over the epochs, the best epoch of the first score marked."""
    shown = [metric, *(name for name in others if any(name in row for row in history))]
    figure = Figure(figsize=(4.5 * (1 + len(shown)), 3.4), layout="constrained")
    loss, *panels = figure.subplots(1, 1 + len(shown))
    dot = "o" if len(history) == 1 else None  # a line through one point is not seen
    loss.plot([row["epoch"] for row in history], [row["train/loss"] for row in history], color=RIGHT, marker=dot)
    loss.set(xlabel="epoch", ylabel="training loss")
    for axes, name in zip(panels, shown, strict=True):
        _plot_score(axes, history, name, mark=name == metric)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _plot_score(axes: Axes, history: Sequence[Mapping[str, float]], name: str, mark: bool) -> None:
    scores = [(row["epoch"], row[name]) for row in history if np.isfinite(row.get(name, np.nan))]
    axes.set(xlabel="epoch", ylabel=f"validation: {name.removeprefix('val/').replace('_', ' ')}")
    if not scores:
        return
    epochs, values = zip(*scores, strict=True)
    axes.plot(epochs, values, color=RIGHT, marker="o" if len(values) == 1 else None)
    if mark:
        best = int(np.argmax(values))
        label = f"best {values[best]:.4f}, epoch {epochs[best]:g}"
        axes.plot(epochs[best], values[best], "o", color=MISSED, label=label)
        axes.legend(loc="lower right")


def cases(pictures: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw a row per case: image, truth, prediction, and where the two differ.

    Args:
        pictures: for each case `case`, `score`, `image` (H, W) or (H, W, 3), `truth` and `prediction` (H, W).
        title: what the rows have in common.
    """
    figure = Figure(figsize=(11, 2.9 * len(pictures) + 0.4), layout="constrained")
    figure.suptitle(title)
    for axes, picture in zip(figure.subplots(len(pictures), 4, squeeze=False), pictures, strict=True):
        image, truth, prediction = picture["image"], picture["truth"], picture["prediction"]
        most = max(int(truth.max()), int(prediction.max()), 1)
        axes[0].imshow(image, cmap="gray")
        axes[0].set_ylabel(f"{picture['case']}\n{picture['score']:.4f}")
        axes[1].imshow(truth, cmap="viridis", vmin=0, vmax=most, interpolation="nearest")
        axes[2].imshow(prediction, cmap="viridis", vmin=0, vmax=most, interpolation="nearest")
        axes[3].imshow(errors(image, truth, prediction), interpolation="nearest")
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(figure.axes[:4], ("image", "truth", "prediction", "where they differ"), strict=True):
        axis.set_title(name)
    meanings = {"found": RIGHT, "missed": MISSED, "invented, or another class": INVENTED}
    handles = [Patch(color=colour, label=meaning) for meaning, colour in meanings.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False)
    return figure


def errors(image: Array, truth: Array, prediction: Array) -> NDArray[np.float64]:
    """Return the image in grey with found, missed and invented (or mistaken) foreground in colour, (H, W, 3) 0..1."""
    grey = image.mean(axis=-1) if image.ndim == 3 else image
    low, high = np.percentile(grey, [1, 99])
    grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    for where, colour in (
        ((truth == prediction) & (truth > 0), RIGHT),
        ((prediction == 0) & (truth > 0), MISSED),
        ((truth != prediction) & (prediction > 0), INVENTED),
    ):
        picture[where] = 0.5 * picture[where] + 0.5 * np.array(colour)
    return picture


def slice_of(image: Array, truth: Array, prediction: Array) -> tuple[Array, Array, Array]:
    """Return what a page can show of a case: a 2D image as it is, of a volume the plane with most foreground.

    Args:
        image: (C, H, W) or (C, X, Y, Z).
        truth: class indices without the channel.
        prediction: the same shape.
    """
    if truth.ndim == 3:
        plane = int(np.argmax(((truth > 0) | (prediction > 0)).sum(axis=(0, 1))))
        image, truth, prediction = image[..., plane], truth[..., plane], prediction[..., plane]
    shown = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
    if image.shape[0] == 3:
        shown = (shown - shown.min()) / max(float(np.ptp(shown)), 1e-9)
    return shown, truth, prediction
