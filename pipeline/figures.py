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
from pipeline.volumes.planes import Plane

Array = NDArray[Any]

# Told apart by readers with any colour vision (Okabe and Ito): blue right, orange missed, magenta invented.
RIGHT, MISSED, INVENTED = (0.0, 0.45, 0.70), (0.90, 0.62, 0.0), (0.80, 0.0, 0.47)

# Ten classes on grey, for readers with any colour vision (Okabe and Ito; Tol), then the same again.
CLASSES = (
    *((0.90, 0.62, 0.00), (0.34, 0.71, 0.91), (0.00, 0.62, 0.45), (0.94, 0.89, 0.26), (0.80, 0.47, 0.65)),
    *((0.84, 0.37, 0.00), (0.00, 0.45, 0.70), (0.87, 0.80, 0.47), (0.27, 0.67, 0.60), (0.67, 0.27, 0.60)),
)
RIM = 2  # pixels
DARK, LIGHT = "#0e0f12", "#e8e8ea"
DPI = 110


def save(figure: Figure, file: Path, dpi: int = DPI) -> None:
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


def picture(title: str, planes: Sequence[Plane], legend: Mapping[int, str]) -> Figure:
    """Draw planes side by side and to one scale, the image in grey beneath the colours of its labels.

    Args:
        title: the case.
        planes: one to three.
        legend: text for each label above 0 that the case has anywhere.
    """
    drawn = np.array([np.multiply(plane.image.shape, plane.spacing) for plane in planes])  # heights, widths
    heights, widths = (drawn * min(5.5 / drawn[:, 0].max(), 12.0 / drawn[:, 1].sum())).T  # inches
    cells = np.maximum(widths, 1.4) + 0.6
    width = max(float(cells.sum()), 5.0)
    columns = max(int((width - 0.4) / (0.6 + 0.085 * max(map(len, legend.values()), default=1))), 1)
    above = 0.7 + (0.3 if planes[0].title else 0) + (0.25 if planes[0].letters else 0)
    below = 0.65 + 0.24 * max(-(-len(legend) // columns), 1)
    height = below + float(heights.max()) + above
    figure = Figure(figsize=(width, height), facecolor=DARK)
    _write(figure, width / 2, height - 0.32, _shortened(title, int(width * 8)), fontsize=13)
    grey = np.percentile(np.concatenate([plane.image.ravel() for plane in planes]), [1, 99]).tolist()
    left = (width - cells.sum()) / 2
    for plane, cell, wide, tall in zip(planes, cells, widths, heights, strict=True):
        _draw_plane(figure, plane, (left + (cell - wide) / 2, below + (heights.max() - tall) / 2, wide, tall), grey)
        left += cell
    if legend:
        handles = [Patch(color=CLASSES[(label - 1) % len(CLASSES)], label=text) for label, text in legend.items()]
        shown = figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, labelcolor=LIGHT)
        for text in shown.get_texts():
            text.set_parse_math(False)
    else:
        _write(figure, width / 2, below / 2, "no foreground")
    return figure


def coloured(labels: Array) -> NDArray[np.float32]:
    """Return labels as colours that let an image through, their rims least, (H, W, 4) 0..1."""
    rim = np.zeros(labels.shape, bool)
    for step in range(1, RIM + 1):
        for one, other in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differ = labels[one] != labels[other]
            rim[one] |= differ
            rim[other] |= differ
    cover = np.where(labels > 0, np.where(rim, 0.9, 0.35), 0)
    colours = np.array(CLASSES)[(labels.astype(np.int64) - 1) % len(CLASSES)]
    return np.concatenate([colours, cover[..., None]], axis=-1).astype(np.float32)


def _draw_plane(figure: Figure, plane: Plane, box: tuple[float, float, float, float], grey: Sequence[float]) -> None:
    """Draw one plane into a box (left, bottom, width, height) in inches; `grey` holds black and white."""
    x, y, wide, tall = box
    width, height = figure.get_size_inches()
    axes = figure.add_axes((x / width, y / height, wide / width, tall / height))
    pixels = max(round(tall * DPI), 1), max(round(wide * DPI), 1)
    image = _resized(plane.image, np.minimum(plane.image.shape, np.multiply(4, pixels)))  # a huge one has too many
    extent = (0, 1, 0, 1)
    axes.imshow(image, cmap="gray", vmin=grey[0], vmax=max(grey[1], grey[0] + 1e-9), aspect="auto", extent=extent)
    axes.imshow(coloured(_resized(plane.labels, pixels)), aspect="auto", interpolation="nearest", extent=extent)
    axes.set_axis_off()
    _write(figure, x + wide / 2, y + tall + (0.45 if plane.letters else 0.2), plane.title)
    sides = ((x - 0.15, y + tall / 2), (x + wide + 0.15, y + tall / 2))
    ends = ((x + wide / 2, y + tall + 0.15), (x + wide / 2, y - 0.15))
    for letter, place in zip(plane.letters, (*sides, *ends), strict=False):
        _write(figure, *place, letter, weight="bold")


def _resized(array: Array, size: Sequence[int] | Array) -> Array:
    """Repeat rows and columns, or leave some out, until there are `size`: pixel p shows what lies at its middle."""
    rows, columns = (((2 * np.arange(m) + 1) * n) // (2 * m) for n, m in zip(array.shape, size, strict=True))
    return array[np.ix_(rows, columns)]


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text in the middle of a place, in inches."""
    width, height = figure.get_size_inches()
    style = {"ha": "center", "va": "center", "color": LIGHT, "fontsize": 10, **style}
    figure.text(x / width, y / height, text, parse_math=False, **style)


def _shortened(text: str, most: int) -> str:
    text = text.encode(errors="replace").decode()  # a file's name need not be UTF-8
    return text if len(text) <= most else "…" + text[1 - most :]
