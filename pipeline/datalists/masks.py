"""Pictures of one object or one class: 0 and one other value, most often 255."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.volumes.header import Kind
from pipeline.volumes.reading import read_volume


def read_mask(file: Path, spatial_dims: int = 2, case: str | None = None, kind: Kind = "image") -> np.ndarray:
    """Read a picture of two values as booleans, shape (*spatial): False where it is 0.

    Grey values and equal colours pass, an opaque alpha channel too; a third value raises, because an edge was smoothed
    or the picture holds several classes. With the kind "label", the indices of a palette are the values.
    """
    array = read_volume(file, spatial_dims, case, kind).array
    values = np.unique(array)
    if values.size > 2 or (values.size == 2 and values[0] != 0) or (array != array[0]).any():
        shown = ", ".join(map(str, values[:6])) + (", ..." if values.size > 6 else "")
        reason = f"is no mask, which has the value 0 and one other: it has {shown}"
        raise InputError(reason, case=case, file=file, remedy="save it with two values and without smooth edges")
    return array[0] != 0
