"""Pictures of a comparison: differences, curves, cases, classes, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.comparison.choice import Metric
from pipeline.comparison.comparison import Comparison, Row
from pipeline.comparison.entries import Entry
from pipeline.comparison.settings_that_differ import columns
from pipeline.figures import CLASSES, MISSED, RIGHT

INK, SOFT, GRID = (0.11, 0.13, 0.16), (0.47, 0.50, 0.54), (0.87, 0.89, 0.91)
COLOURS = {"better": RIGHT, "worse": MISSED, "baseline": INK}
WIDTH = 5.7  # inches: two beside each other on a desk, and the text is still read on a telephone
MOST_LINES = 10
MOST_PANELS = 9
MOST_BOXES = 16
PANEL = (3.7, 2.5)  # inches: three beside each other, or one on a telephone
History = Sequence[tuple[int, float]]


def differences(comparison: Comparison) -> Figure:
    """Draw each row's mean difference to the baseline with its interval: the answer at a glance."""
    rows = comparison.compared
    figure = Figure(figsize=(WIDTH, 0.34 * len(rows) + 1.05), layout="constrained")
    axes = figure.subplots()
    _plain(axes, "x")
    axes.axvline(0, color=INK, linewidth=1)
    if comparison.seeds is not None:
        bound = comparison.seeds.bound
        axes.axvspan(-bound, bound, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    for place, row in enumerate(rows):
        assert row.difference is not None
        found, colour = row.difference.estimate, colour_of(row)
        axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot(found.mean, place, "o", color=colour, markersize=6.5, markeredgecolor="white")
    axes.set_yticks(range(len(rows)), [shortened(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{comparison.metric.name}: difference to {shortened(comparison.baseline.label)}")
    _spread_x(axes, rows, comparison)
    return figure


def _spread_x(axes: Axes, rows: Sequence[Row], comparison: Comparison) -> None:
    """Let the axis show all intervals, though the band of the seeds may be wider than the picture."""
    bounds = [b for row in rows if row.difference for e in [row.difference.estimate] for b in (e.low, e.high, e.mean)]
    reach = max((abs(bound) for bound in bounds if math.isfinite(bound)), default=0) or 0.01
    reach = max(reach, min(comparison.seeds.bound, 2 * reach) if comparison.seeds else 0) * 1.1
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))  # more would meet, for small differences have long numbers


def curves(comparison: Comparison, histories: Mapping[str, History]) -> Figure | None:
    """Draw the validation metric over the epochs, each line named at its end; None where no run has a history.

    Args:
        comparison: whose rows are drawn.
        histories: (epoch, value) pairs by run id; folds are averaged epoch by epoch.
    """
    lines = [(row, line) for row in drawn_lines(comparison) if (line := _mean_line(row, histories))]
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    axes = figure.subplots()
    _plain(axes, "y")
    ends = []
    for (row, line), colour in zip(lines, _colours([row for row, _ in lines], comparison), strict=True):
        epochs, values = zip(*line, strict=True)
        axes.plot(epochs, values, color=colour, linewidth=1.8, marker="o" if len(values) == 1 else None)
        ends.append((epochs[-1], values[-1], shortened(row.label, 22), colour))
    axes.set(xlabel="epoch", ylabel=f"val/{comparison.metric.column}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_ends(axes, ends)
    return figure


def drawn_lines(comparison: Comparison) -> list[Row]:
    """The rows whose histories are drawn: the first ten and, on top of them, the baseline."""
    others = [row for row in comparison.rows if row is not comparison.baseline]
    return [*others[:MOST_LINES], comparison.baseline]


def _mean_line(row: Row, histories: Mapping[str, History]) -> list[tuple[int, float]]:
    ids = dict.fromkeys([row.entry.run.id, *(source.id for source in row.entry.sources)])
    points: dict[int, list[float]] = {}
    for run in ids:
        for epoch, value in histories.get(run, ()):
            if math.isfinite(value):
                points.setdefault(epoch, []).append(value)
    most = max(map(len, points.values()), default=0)
    return [(epoch, float(np.mean(values))) for epoch, values in sorted(points.items()) if len(values) == most]


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]]) -> None:
    """Mark each line's end, and write the names at the right in the order of the ends, none over another."""
    low, high = axes.get_ylim()
    right = max(x for x, *_ in ends)
    left = min(axes.get_xlim()[0], right)
    at, places = -math.inf, []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        at = max(y, at + (high - low) * 0.056)
        places.append((x, y, at, name, colour))
    over = max(places[-1][2] - high, 0)
    for x, y, place, name, colour in places:
        axes.plot(x, y, "o", color=colour, markersize=4)
        axes.text(right + (right - left) * 0.03, place - over, name, color=colour, fontsize=8.5, va="center")


def paired(comparison: Comparison) -> list[Figure]:
    """Draw for each row the differences case by case, sorted: dots above zero are cases with a higher score."""
    rows = comparison.compared[:MOST_PANELS]
    reach = max((abs(value) for row in rows for value in _case_differences(row, comparison)), default=0) * 1.08 or 0.01
    figures = []
    for row in rows:
        figure = Figure(figsize=PANEL)
        axes = figure.add_axes((0.19, 0.13, 0.79, 0.76))  # a layout that looks for itself takes a tenth of a second
        _draw_pairs(axes, row, comparison)
        axes.set_ylim(-reach, reach)
        figures.append(figure)
    return figures


def _case_differences(row: Row, comparison: Comparison) -> NDArray[np.float64]:
    column, ours, theirs = comparison.metric.column, row.entry.scores, comparison.baseline.entry.scores
    return np.sort([ours[case][column] - theirs[case][column] for case in row.common])


def _draw_pairs(axes: Axes, row: Row, comparison: Comparison) -> None:
    assert row.difference is not None
    sign, values = comparison.metric.sign, _case_differences(row, comparison)
    _plain(axes, "y")
    axes.axhline(0, color=INK, linewidth=1)
    found = row.difference.estimate
    axes.axhspan(found.low, found.high, color=colour_of(row), alpha=0.16, linewidth=0)
    axes.axhline(found.mean, color=colour_of(row), linewidth=1.4)
    colours = [RIGHT if sign * value > 1e-9 else MISSED if sign * value < -1e-9 else SOFT for value in values]
    axes.scatter(np.arange(len(values)) + 0.5, values, c=colours, s=np.clip(900 / max(len(values), 1), 3, 26), zorder=3)
    axes.set(xticks=[], xlim=(0, max(len(values), 1)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(shortened(row.label, 34), fontsize=10, loc="left", color=INK, y=1)  # a given y is not searched for
    words = f"{row.difference.better} better, {row.difference.worse} worse, {row.difference.equal} equal"
    axes.set_xlabel(words, fontsize=9, color=SOFT)


def spread(comparison: Comparison) -> Figure:
    """Draw the spread of the score over cases: quartiles, whiskers to 1.5 of their distance, outliers."""
    return _boxes(comparison, comparison.metric.column, WIDTH)


def by_class(comparison: Comparison) -> list[Figure]:
    """Draw the spread over cases for each class; nothing where there is only one."""
    names = class_columns(comparison)
    return [_boxes(comparison, name, PANEL[0]) for name in names] if len(names) > 1 else []


def _boxes(comparison: Comparison, name: str, width: float) -> Figure:
    rows = comparison.rows[:MOST_BOXES]
    figure = Figure(figsize=(width, 0.27 * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots()
    _plain(axes, "x")
    values = [_finite([scores.get(name, np.nan) for scores in row.entry.scores.values()]) for row in rows]
    _draw_boxes(axes, values, [INK if row is comparison.baseline else colour_of(row) for row in rows])
    axes.set_yticks(range(len(rows)), [shortened(row.label, 22) for row in rows], fontsize=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(name, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5 if width == WIDTH else 4))
    return figure


def _draw_boxes(axes: Axes, values: Sequence[NDArray[np.float64]], colours: Sequence[Any]) -> None:
    """One box for each row, in its colour; all at once, which takes half the time."""
    parts = axes.boxplot(
        values,
        positions=range(len(values)),
        widths=0.58,
        orientation="horizontal",
        patch_artist=True,
        manage_ticks=False,
        flierprops={"marker": "o", "markersize": 3, "alpha": 0.7},
    )
    for name, drawn in parts.items():
        for place, artist in enumerate(drawn):
            colour = colours[place * len(colours) // len(drawn)]  # whiskers and caps come in pairs
            artist.set(color=colour, linewidth=2 if name == "medians" else 1.2)
            if name == "boxes":
                artist.set_facecolor((*colour, 0.22))
            elif name == "fliers":
                artist.set_markeredgecolor(colour)


def class_columns(comparison: Comparison) -> list[str]:
    """The columns of the metric for each class: of `mean_dice` those called `dice/...`, else the metric itself."""
    column = comparison.metric.column
    family = column.removeprefix("mean_").split("/")[0]
    known = dict.fromkeys(name for row in comparison.rows for scores in row.entry.scores.values() for name in scores)
    return [name for name in known if name.startswith(f"{family}/")] or [column]


def parallel(entries: Sequence[Entry], metric: Metric) -> Figure | None:
    """Draw a line per run through its settings to its score, the better the darker; None below 4 runs or 2 settings."""
    entries = [entry for entry in entries if math.isfinite(entry.mean(metric.column))]
    known = columns([entry.settings for entry in entries])
    if len(entries) < 4 or len(known) < 2:
        return None
    others = [column for column in known if column.key != "seed"]
    chosen = (known if len(others) < 2 else others)[:7]
    scales = [_scale(column.values) for column in chosen]
    scores = np.array([entry.mean(metric.column) for entry in entries])
    scales.append(_scale([str(score) for score in scores]))
    figure = Figure(figsize=(max(WIDTH, 1.9 * len(scales)), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.12, len(scales) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axes.spines[:].set_visible(False)
    order = np.argsort(metric.sign * scores)
    for rank, run in enumerate(order):
        heights = [scale[0][run] for scale in scales]
        part = rank / max(len(order) - 1, 1)
        best = rank == len(order) - 1
        colour = RIGHT if best else (0.80 - 0.42 * part,) * 3
        axes.plot(range(len(scales)), heights, color=colour, linewidth=2.6 if best else 1.4, zorder=3 + rank)
    for place, (_, ticks) in enumerate(scales):
        axes.axvline(place, color=INK, linewidth=0.8, zorder=2)
        for height, name in ticks:
            axes.text(place + 0.03, height, shortened(name, 20), fontsize=8.5, va="center", zorder=99, bbox=_PAPER)
    titles = [shortened(column.title, 20) for column in chosen]
    axes.set_xticks(range(len(scales)), [*titles, metric.name], fontsize=9)
    axes.tick_params(length=0)
    return figure


_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


def _scale(values: Sequence[str]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Heights 0..1 of values on an axis, and ticks: words evenly, numbers to scale (logarithmic from a factor 50)."""
    try:
        numbers = np.array([float(value) for value in values])
        known = np.unique(numbers)
    except ValueError:
        known = None
    if known is None or not np.isfinite(known).all():
        words = sorted(set(values))
        heights = {word: (place + 0.5) / len(words) for place, word in enumerate(words)}
        return np.array([heights[value] for value in values]), [(height, word) for word, height in heights.items()]
    scale = np.log10 if known[0] > 0 and known[-1] / known[0] >= 50 else np.asarray
    low, high = scale(known[[0, -1]])
    span = (high - low) or 1
    shown = known if len(known) <= 6 else known[[0, -1]]
    return (scale(numbers) - low) / span, [(float((scale(tick) - low) / span), f"{tick:.4g}") for tick in shown]


def colour_of(row: Row) -> Any:
    """Blue for better, orange for worse, grey where no difference is shown."""
    return COLOURS.get(row.verdict, SOFT)


def shortened(name: str, most: int = 28) -> str:
    """A name that fits: its beginning and its end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"


def _colours(rows: Sequence[Row], comparison: Comparison) -> list[tuple[float, float, float]]:
    """A colour for each row: ink for the baseline, others that are told apart on white (not the yellows)."""
    colours = iter([CLASSES[index] for index in (0, 1, 2, 4, 5, 6, 8, 9)] * 2)
    return [INK if row is comparison.baseline else next(colours) for row in rows]


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(values, float)
    return found[np.isfinite(found)]


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left" if grid == "y" else "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
