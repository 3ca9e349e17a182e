"""The same cases in two runs, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipeline.comparison.comparison import Comparison, Row
from pipeline.comparison.drawings import shortened
from pipeline.figures import CLASSES, INVENTED, MISSED, RIGHT, errors
from pipeline.slices import Slice

MOST_CASES = 4


def opponents(comparison: Comparison) -> tuple[Row, Row] | None:
    """Return the baseline and the best other row that shares cases with it."""
    others = comparison.compared
    return (comparison.baseline, others[0]) if others else None


def worst_cases(
    comparison: Comparison, pair: tuple[Row, Row], kept: Sequence[Mapping[str, Slice]], most: int = MOST_CASES
) -> list[str]:
    """Return the cases in which the worse of two runs is worst, among those that both have kept a slice of."""
    column, sign = comparison.metric.column, comparison.metric.sign

    def worse(case: str) -> float:
        return min(sign * row.entry.scores[case].get(column, math.nan) for row in pair)

    common = [case for case in pair[1].common if all(_fits(slices, case, kept[0]) for slices in kept)]
    return sorted(common, key=worse)[:most]


def side_by_side(
    comparison: Comparison, pair: tuple[Row, Row], kept: Sequence[Mapping[str, Slice]], cases: Sequence[str]
) -> Figure:
    """Draw a row per case: image, truth, what each run made of it, and who is right where they differ.

    A name with letters that the picture's font lacks, and a browser's does not, is for the text beside the picture.
    """
    figure = Figure(figsize=(11.4, 2.42 * len(cases) + 0.75), layout="constrained")
    panels = figure.subplots(len(cases), 5, squeeze=False)
    instead = ("the baseline", "the other run")
    names = [_in_letters(shortened(row.label, 24), word) for row, word in zip(pair, instead, strict=True)]
    for axes, title in zip(panels[0], ("image", "truth", *names, "where they differ"), strict=True):
        axes.set_title(title, fontsize=10)
    for number, (axes, case) in enumerate(zip(panels, cases, strict=True), 1):
        ours, theirs = (slices[case] for slices in kept)
        image = ours.image
        axes[0].imshow(image, cmap="gray")
        axes[1].imshow(classes_on(image, ours.truth), interpolation="nearest")
        axes[2].imshow(errors(image, ours.truth, ours.prediction), interpolation="nearest")
        axes[3].imshow(errors(image, ours.truth, theirs.prediction), interpolation="nearest")
        axes[4].imshow(who_is_right(image, ours.truth, ours.prediction, theirs.prediction), interpolation="nearest")
        axes[0].set_ylabel(_in_letters(shortened(case, 24), f"case {number}"), fontsize=9)
        for axis, row in zip(axes[2:4], pair, strict=True):
            axis.set_xlabel(f"{row.entry.scores[case][comparison.metric.column]:.4f}", fontsize=9)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    of_run = {"found": RIGHT, "missed": MISSED, "invented, or another class": INVENTED}
    of_both = {f"only {names[1]} is right": RIGHT, f"only {names[0]} is right": MISSED, "both are wrong": INVENTED}
    parts: dict[Literal["left", "right"], Any] = {"left": ("of a run", of_run), "right": ("where they differ", of_both)}
    for side, (title, meanings) in parts.items():
        handles = [Patch(color=colour, label=meaning) for meaning, colour in meanings.items()]
        place: Any = f"outside lower {side}"
        legend = figure.legend(handles=handles, loc=place, ncols=3, frameon=False, fontsize=8.5, title=title)
        legend.set_alignment(side)
    return figure


def classes_on(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the image with its classes in colour, (H, W, 3) 0..1."""
    picture = np.repeat(image[..., None] / 255.0, 3, axis=-1)
    colours = np.array([RIGHT, *CLASSES])[(labels.astype(int) - 1) % (len(CLASSES) + 1)]
    return np.where(labels[..., None] > 0, 0.5 * picture + 0.5 * colours, picture)


def who_is_right(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the image, faint, with colours where two predictions differ: blue where the second is right, (H, W, 3)."""
    picture = np.repeat(0.35 + 0.65 * image[..., None] / 255.0, 3, axis=-1)
    for where, colour in (
        ((first != second) & (second == truth), RIGHT),
        ((first != second) & (first == truth), MISSED),
        ((first != second) & (first != truth) & (second != truth), INVENTED),
    ):
        picture[where] = colour
    return picture


def _in_letters(name: str, instead: str) -> str:
    """The name, if the font has all of its letters."""
    font = get_font(findfont("DejaVu Sans"))
    return name if all(font.get_char_index(ord(letter)) for letter in name) else instead


def _fits(slices: Mapping[str, Slice], case: str, others: Mapping[str, Slice]) -> bool:
    """Whether a case is kept here as there: of the same image, in the same plane, with the same truth."""
    return case in slices and case in others and np.array_equal(slices[case].truth, others[case].truth)
