"""What the cases of a data list measure, quantity by quantity, and its histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.datalists.datalist import SPLITS
from pipeline.datalists.fingerprint import Fingerprint, Intensities

AXES = {"LR": "left to right", "PA": "back to front", "IS": "foot to head"}
# Told apart with any colour vision (Okabe and Ito).
COLOURS = {"training": "#0072b2", "validation": "#e69f00", "test": "#009e73"}
PERCENTILES = {"0.5 %": "#56b4e9", "median": "#0072b2", "99.5 %": "#d55e00"}
MOST_PANELS, MOST_BINS = 24, 30
SPREAD = 100  # times the median: from such a largest value on, an axis runs like a logarithm beyond the median


class Panel(NamedTuple):
    """One histogram: its name, and the values of each series, such as of each split."""

    name: str
    series: dict[str, list[float]]


@dataclass(frozen=True)
class Quantity:
    """Something that every case has, such as a spacing along each axis.

    Args:
        title: of the figure.
        unit: of its values; "" where they have none.
        panels: one for each axis, channel or class.
        colours: of each series.
    """

    title: str
    unit: str
    panels: tuple[Panel, ...]
    colours: dict[str, str]

    @property
    def rows(self) -> list[tuple[str, float, float, float]]:
        """Name, smallest, median and largest value of each panel, or of each series where these are no splits."""
        rows = []
        for panel in self.panels:
            parts = {"": [value for values in panel.series.values() for value in values]}
            if self.colours is PERCENTILES:
                parts = {f", {name}": values for name, values in panel.series.items()}
            rows += [(f"{panel.name}{part}", min(v), median(v), max(v)) for part, v in parts.items() if v]
        return rows


def quantities(cases: Sequence[Fingerprint]) -> list[Quantity]:
    """Return everything that can be said of these cases; none for no case."""
    if not cases:
        return []
    order, names = _axes(cases)
    flat, counted = len(names) == 2, [case for case in cases if case.classes]
    found = [
        _split("Size", "pixels" if flat else "voxels", names, cases, lambda case: _sorted(case, case.shape, order))
    ]
    placed = [case for case in cases if case.spacing]
    found.append(_split("Spacing", "mm", names, placed, lambda case: _sorted(case, case.spacing or (), order)))
    found.append(_intensities(cases))
    classes = [volume.name for volume in counted[0].classes[1:]] if counted and counted[0].classes else []
    measured = all(volume.ml is not None for case in counted for volume in case.classes or ())
    unit = "ml" if measured else "pixels" if flat else "voxels"
    found.append(_split("Class volume", unit, classes, counted, lambda case: _volumes(case, measured)))
    found.append(_split("Foreground", "%", ["all classes"], counted, lambda case: [100 * (case.foreground or 0)]))
    numbered = [case for case in cases if case.objects is not None]
    found.append(_split("Objects", "", ["per case"], numbered, lambda case: [case.objects or 0]))
    return [quantity for quantity in found if quantity.panels]


def histograms(quantity: Quantity) -> list[Figure]:
    """Draw a quantity's first panels, each a figure of its own: a narrow page sets them one below the other."""
    return [_figure(panel, quantity) for panel in quantity.panels[:MOST_PANELS]]


def _figure(panel: Panel, quantity: Quantity) -> Figure:
    figure = Figure(figsize=(2.75, 2.3), layout="constrained")
    axes = figure.subplots()
    _draw(axes, panel, quantity)
    axes.set_ylabel("cases", fontsize=8)
    return figure


def _draw(axes: Axes, panel: Panel, quantity: Quantity) -> None:
    series = {name: values for name, values in panel.series.items() if values}
    together = np.array([value for values in series.values() for value in values])
    width = float(np.median(np.abs(together)[together != 0])) if together.any() else 0.0
    if np.abs(together).max() > SPREAD * width > 0:
        edges = (width * np.sinh(_edges(np.arcsinh(together / width).tolist()))).tolist()
        axes.set_xscale("asinh", linear_width=width)
        _mark_powers(axes, width, float(together.min()), float(together.max()))
    else:
        edges = _edges(together.tolist())
        axes.xaxis.set_major_locator(MaxNLocator(4))
    if quantity.colours is PERCENTILES:
        for name, values in series.items():
            axes.hist(values, edges, color=quantity.colours[name], alpha=0.35)
            axes.hist(values, edges, color=quantity.colours[name], histtype="step", linewidth=1.4)
    else:
        colours = [quantity.colours[name] for name in series]
        axes.hist(list(series.values()), edges, stacked=True, color=colours)
    axes.set_xlabel(quantity.unit, fontsize=8)
    axes.tick_params(labelsize=8, length=2)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.25)


def _mark_powers(axes: Axes, width: float, low: float, high: float) -> None:
    """Write 0 and the powers of ten beyond `width`, where they stand apart."""
    tens = [10.0**power for power in range(math.ceil(math.log10(width)), 1 + math.floor(math.log10(max(high, -low))))]
    axes.set_xticks([tick for tick in (*(-ten for ten in tens), 0.0, *tens) if min(low, 0) <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.minorticks_off()


def _edges(values: Sequence[float]) -> list[float]:
    """Borders of at most 30 bars; whole numbers stand in the middle of theirs."""
    low, high = min(values), max(values)
    if low == high:  # one bar, narrow among empty places
        return (low + max(abs(low), 1) * np.linspace(-0.55, 0.55, 12)).tolist()
    if all(float(value).is_integer() for value in values) and high - low < MOST_BINS:
        return np.arange(low - 0.5, high + 1).tolist()
    count = len(np.histogram_bin_edges(values, "auto")) - 1
    return np.linspace(low, high, min(max(count, 6), MOST_BINS) + 1).tolist()


def _split(
    title: str,
    unit: str,
    names: Sequence[str],
    cases: Sequence[Fingerprint],
    values: Callable[[Fingerprint], Sequence[float]],
) -> Quantity:
    """A panel for each name; `values` gives a case's numbers in their order."""
    table = [(case.split, values(case)) for case in cases]
    panels = [
        Panel(name, {split: [float(row[index]) for place, row in table if place == split] for split in SPLITS})
        for index, name in enumerate(names)
    ]
    return Quantity(title, unit, tuple(panels) if table else (), COLOURS)


def _intensities(cases: Sequence[Fingerprint]) -> Quantity:
    panels = []
    for index, name in enumerate(channel.channel for channel in cases[0].channels):
        channels = [case.channels[index] for case in cases]
        panels.append(Panel(name, dict(zip(PERCENTILES, _percentiles(channels), strict=True))))
    return Quantity("Intensity", "", tuple(panels), PERCENTILES)


def _percentiles(channels: Iterable[Intensities]) -> list[list[float]]:
    return [list(values) for values in zip(*((one.low, one.median, one.high) for one in channels), strict=True)]


def _volumes(case: Fingerprint, measured: bool) -> list[float]:
    return [(volume.ml if measured else volume.voxels) or 0 for volume in (case.classes or ())[1:]]


def _axes(cases: Sequence[Fingerprint]) -> tuple[bool, list[str]]:
    """Whether all cases know where their axes point, so that these can be put in one order, and the axes' names."""
    if all(case.axcodes for case in cases):
        return True, list(AXES.values())
    dims = len(cases[0].shape)
    pictures = ("rows", "columns") if dims == 2 else ("pages", "rows", "columns")
    return False, list(pictures if not any(case.spacing for case in cases) else [f"axis {i + 1}" for i in range(dims)])


def _sorted(case: Fingerprint, values: Sequence[float], order: bool) -> Sequence[float]:
    if not order or not case.axcodes:
        return values
    return [values[next(i for i, code in enumerate(case.axcodes) if code in pair)] for pair in AXES]
