"""Cases as rows of four pictures: image, truth, prediction, and where the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import figures
from pipeline.pages.page import Html, beside, legend, picture, subheading

Array = NDArray[Any]

DIFFERENCES = {"found": figures.RIGHT, "missed": figures.MISSED, "invented, or another class": figures.INVENTED}
FILL, RIM = 0.35, 0.9  # how much of a class's colour covers its area, and its rim
NARROWEST = 150  # pixels: four of them stand side by side, on a telephone two


def gallery(pictures: Mapping[str, Sequence[Mapping[str, Any]]], classes: Sequence[str] = ()) -> Html:
    """Return a row of four pictures for each case.

    Args:
        pictures: cases by what they are, such as "worst": `case`, `score`, `image` (H, W) or (H, W, 3), and the class
            indices `truth` and `prediction` (H, W).
        classes: names by class index, the background first.
    """
    parts = [legend(DIFFERENCES)]
    if len(classes) > 2:
        parts.append(legend(dict(zip(classes[1:], figures.CLASSES, strict=False))))
    for name, shown in pictures.items():
        for number, one in enumerate(shown, 1):
            parts.append(subheading(f"{name} {number}: {one['case']}, mean Dice {one['score']:.4f}"))
            parts.append(_row(one["image"], one["truth"], one["prediction"]))
    return Html("".join(parts))


def _row(image: Array, truth: Array, prediction: Array) -> Html:
    shown = _scaled(image)
    return beside(
        picture(shown, "image"),
        picture(covered(shown, truth), "truth"),
        picture(covered(shown, prediction), "prediction"),
        picture(figures.errors(image, truth, prediction), "where they differ"),
        least=NARROWEST,
    )


def covered(image: Array, labels: Array) -> NDArray[np.float64]:
    """Return an image (H, W, 3) of 0..1, in grey beneath the colours of its labels (H, W), whose rims are stronger."""
    rim = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[one] != labels[other]
        rim[one] |= differ
        rim[other] |= differ
    colours = np.array(figures.CLASSES)[(labels.astype(np.int64) - 1) % len(figures.CLASSES)]
    cover = np.where(labels > 0, np.where(rim, RIM, FILL), 0.0)[..., None]
    return image.mean(axis=-1, keepdims=True) * (1 - cover) + colours * cover


def _scaled(image: Array) -> NDArray[np.float64]:
    """The image as (H, W, 3) of 0..1; one channel from its first to its 99th percentile."""
    if image.ndim == 3:
        return image
    low, high = np.percentile(image, [1, 99])
    return np.repeat(np.clip((image - low) / max(high - low, 1e-9), 0, 1)[..., None], 3, axis=-1)
