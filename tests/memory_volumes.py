"""Volumes in memory that are read and written box by box, as those on disk are."""

import numpy as np


class ArrayReader:
    """An array (channels, *spatial) as a volume of which boxes are read; `boxes` are those that were."""

    def __init__(self, array, affine=None, chunk=None):
        self.array, self.affine = array, np.eye(4) if affine is None else np.asarray(affine, float)
        self.shape, self.channels, self.dtype = array.shape[1:], len(array), array.dtype
        self.chunk = tuple(chunk or [4] * len(self.shape))
        self.boxes = []

    def read(self, box):
        check(box, self.shape)
        self.boxes.append(box)
        return self.array[:, *box].copy()


class ArrayStore:
    """A label map in memory; `boxes` are those that were written."""

    def __init__(self, shape, dtype=np.uint8, chunk=None):
        self.array, self.chunk, self.boxes = np.zeros(shape, dtype), chunk, []

    def write(self, box, labels):
        check(box, self.array.shape)
        assert labels.shape == tuple(part.stop - part.start for part in box)
        assert np.array_equal(labels, labels.astype(self.array.dtype))
        self.boxes.append(box)
        self.array[box] = labels

    def read(self, box):
        check(box, self.array.shape)
        return self.array[box].copy()


def check(box, shape):
    assert len(box) == len(shape)
    assert all(0 <= part.start < part.stop <= n for part, n in zip(box, shape, strict=True)), (box, shape)
