"""What the measures of the ISBI-2012 challenge share: slices of cells, thresholds and objects."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

THRESHOLDS = tuple(step / 10 for step in range(10))  # 0.0, 0.1, ... 0.9


def slice_stack(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Return the truth as a mask and the prediction, both (slices, height, width).

    Args:
        truth: one slice (height, width) or a stack of them; what is above 0 is cell, the rest is membrane.
        prediction: P(cell) in [0, 1], of the same shape.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {prediction.shape}")
    if truth.ndim not in (2, 3) or truth.size == 0:
        raise ValueError(f"a slice is (height, width) and a stack (slices, height, width), not {truth.shape}")
    if prediction.dtype.kind != "f":
        prediction = prediction.astype(np.float64)
    lowest, highest = float(prediction.min()), float(prediction.max())
    if not (lowest >= 0 and highest <= 1):  # nan is neither
        raise ValueError(f"the prediction is P(cell) in [0, 1], but holds {lowest} to {highest}")
    shape = (-1, *truth.shape[-2:])
    return truth.reshape(shape) > 0, prediction.reshape(shape)


def label_cells(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the 4-connected components of one slice (height, width), numbered from 1; 0 is membrane."""
    return ndimage.label(mask)[0]
