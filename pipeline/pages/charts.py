"""Charts of an evaluation and of a training, each small enough to stand beside another on a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline import figures
from pipeline.comparison.statistics import mean_interval

Row = Mapping[str, Any]

KEY_METRIC = "mean_dice"


def _axes(width: float = 4.6, height: float = 2.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def histogram(cases: Sequence[Row]) -> Figure | None:
    """How many cases have which mean Dice."""
    values = numbers(row.get(KEY_METRIC) for row in cases)
    if not values:
        return None
    figure, axes = _axes()
    low = min(math.floor(min(values) * 20) / 20, 0.95)
    axes.hist(values, bins=min(max(len(values) // 2, 8), 40), range=(low, 1), color=figures.RIGHT, edgecolor="white")
    axes.axvline(float(np.mean(values)), color=figures.INVENTED, label=f"mean {np.mean(values):.3f}")
    axes.axvline(float(np.median(values)), color=figures.MISSED, ls="--", label=f"median {np.median(values):.3f}")
    axes.set(xlabel="mean Dice of a case", ylabel="cases", xlim=(low, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)  # above every bar
    return figure


def strips(cases: Sequence[Row]) -> Figure | None:
    """Dice of every case by class, with mean and interval; nothing for a single class."""
    names = [name for name in (cases[0] if cases else ()) if name.startswith("dice/")]
    if len(names) < 2:
        return None
    figure, axes = _axes(height=max(2.9, 0.42 * len(names) + 0.9))
    spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(cases))
    for place, name in enumerate(names):
        shown = [(row[name], place + off) for row, off in zip(cases, spread, strict=True) if numbers([row.get(name)])]
        if not shown:
            continue
        values, heights = zip(*shown, strict=True)
        found = mean_interval(values)
        axes.scatter(values, heights, s=14, color=figures.RIGHT, alpha=0.45, linewidths=0)
        axes.plot([found.low, found.high], [place, place], color="black", lw=2)
        axes.plot(found.mean, place, "D", color="white", mec="black", ms=6)
    axes.set(xlabel="Dice of a case; diamond and bar: mean and 95% interval", ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), [name.removeprefix("dice/") for name in names], parse_math=False)
    return figure


def curves(history: Sequence[Row]) -> list[Figure]:
    """Loss, validation scores and learning rate over the epochs."""
    by_class = [name for name in dict.fromkeys(key for row in history for key in row) if name.startswith("val/dice/")]
    panels = [("training loss", ["train/loss"]), ("validation: mean Dice", [f"val/{KEY_METRIC}"])]
    panels += [("validation: Dice by class", by_class)] if len(by_class) > 1 else []
    panels += [("learning rate", ["train/learning_rate"])]
    return [figure for label, names in panels if (figure := _curve(history, label, names)) is not None]


def _curve(history: Sequence[Row], label: str, names: Sequence[str]) -> Figure | None:
    figure, axes = _axes()
    for number, name in enumerate(names):
        points = [(row["epoch"], row[name]) for row in history if numbers([row.get(name)])]
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        colour = figures.CLASSES[number % len(figures.CLASSES)] if len(names) > 1 else figures.RIGHT
        axes.plot(epochs, values, color=colour, marker="o" if len(values) == 1 else None, label=name.split("/")[-1])
        if name == f"val/{KEY_METRIC}":
            best = int(np.argmax(values))
            told = f"best {values[best]:.4f}, epoch {epochs[best]:g}"
            axes.plot(epochs[best], values[best], "o", color=figures.MISSED, label=told)
    if not axes.lines:
        return None
    axes.set(xlabel="epoch", ylabel=label, xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axes.lines) > 1:
        handles = axes.lines if len(names) > 1 else axes.lines[1:]
        for written in axes.legend(handles=handles, frameon=False).get_texts():
            written.set_parse_math(False)
    return figure


def numbers(values: Iterable[Any]) -> list[float]:
    """Return the values that are finite numbers."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]
