"""A part of a whole, where the whole may be nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def fraction(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Return part / whole of equal or broadcast shapes; nan (n/a) where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
