from itertools import pairwise

import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader

from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.plane_buffer import PlaneBuffer, brick_height


def image(planes=400, chunk=(3, 2)):
    array = np.random.default_rng(0).normal(size=(2, planes, 6)).astype(np.float32)
    return NetworkImage(ArrayReader(array, chunk=chunk), FileGrid((0, 1), (False, False), (planes, 6), (planes, 6)))


@pytest.mark.parametrize("chunk", [(3, 2), (1, 1), (100, 6), (1000, 6)])
def test_planes_come_as_they_are_and_few_are_held(chunk):
    source = image(chunk=chunk)
    buffer = PlaneBuffer(source, (slice(5, 400), slice(1, 5)), 10)
    for start in range(5, 391, 7):
        found = buffer.planes(start, start + 10)
        assert torch.equal(found, torch.from_numpy(source.reader.array[:, start : start + 10, 1:5]))
    assert buffer.values.shape[1] == min(10 + brick_height(source), 395)
    seen = sorted((box[0].start, box[0].stop) for box in source.reader.boxes if box[1].start == 1)
    assert seen[0][0] == 5
    assert all(stop == start for (_, stop), (start, _) in pairwise(seen)), "each plane is read once"


def test_two_readers_that_are_a_height_apart_share_it():
    source = image()
    buffer = PlaneBuffer(source, (slice(0, 400), slice(0, 6)), 20)
    array = torch.from_numpy(source.reader.array)
    for start in range(0, 380, 5):
        for first in (start + 9, start):
            assert torch.equal(buffer.planes(first, first + 10), array[:, first : first + 10])


def test_planes_that_are_gone_are_an_error():
    buffer = PlaneBuffer(image(), (slice(0, 400), slice(0, 6)), 10)
    buffer.planes(200, 210)
    with pytest.raises(ValueError, match="plane 0 is asked for"):
        buffer.planes(0, 10)
    with pytest.raises(ValueError, match="are more than"):
        buffer.planes(210, 399)


@pytest.mark.parametrize(("chunk", "height"), [(1, 64), (3, 63), (64, 64), (100, 100), (500, 128)])
def test_whole_chunks_are_read_unless_they_are_high(chunk, height):
    assert brick_height(image(chunk=(chunk, 1))) == height
    assert brick_height(image(20, chunk=(chunk, 1))) <= 20
