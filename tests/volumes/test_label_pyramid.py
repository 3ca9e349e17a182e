import json

import numpy as np
import pytest
from zarr_stores import check_by_model, entry_of, label_node, write_image

from pipeline.volumes import label_pyramid
from pipeline.volumes.label_pyramid import build_pyramid
from pipeline.volumes.label_zarr import LabelImage
from pipeline.volumes.ome_zarr import Standing, open_ome_zarr


def labelled(tmp_path, shape, scale, version="0.4", letters="zyx", chunk=None):
    """A label image of random labels on an image of zeros, and the labels."""
    folder = tmp_path / "x.zarr"
    write_image(folder, version, [np.zeros(shape, np.uint8)], entry_of(letters, [scale], version=version))
    volume = open_ome_zarr(folder).images(3)[0]
    made = LabelImage(tmp_path / "out.zarr", "cells", volume.image, np.uint16, chunk=chunk)
    labels = np.random.default_rng(0).integers(0, 900, shape, np.uint16)
    made.array[...] = labels
    return made, labels


def scales_of(folder):
    (entry,) = json.loads((folder / ".zattrs").read_text())["multiscales"]
    return [dataset["coordinateTransformations"][0]["scale"] for dataset in entry["datasets"]]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_each_level_is_every_second_voxel(tmp_path, version, monkeypatch):
    monkeypatch.setattr(label_pyramid, "SMALL", 16)
    monkeypatch.setattr(label_pyramid, "AT_ONCE", 1)
    made, labels = labelled(tmp_path, (9, 61, 33), (1, 1, 1), version, chunk=(4, 8, 8))
    build_pyramid(made)
    expected = [labels, labels[::2, ::2, ::2], labels[::4, ::4, ::4]]
    for number, level in enumerate(expected):
        np.testing.assert_array_equal(made.level(number)[:], level)
    for theirs, level in zip(label_node(made.folder).data, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(theirs), level)
    assert check_by_model("ImageLabel", made.folder)


def test_planes_that_lie_far_apart_are_kept_until_the_others_are_as_large(tmp_path, monkeypatch):
    """Edges of 2, 0.5 and 0.5: z is twice the others' 1 at the second level, and halved at the third alone."""
    monkeypatch.setattr(label_pyramid, "SMALL", 4)
    made, labels = labelled(tmp_path, (6, 32, 32), (2, 0.5, 0.5))
    build_pyramid(made)
    assert scales_of(made.folder) == [[2, 0.5, 0.5], [2, 1, 1], [2, 2, 2], [4, 4, 4]]
    np.testing.assert_array_equal(made.level(3)[:], labels[::2, ::8, ::8])


def test_time_is_never_halved(tmp_path, monkeypatch):
    monkeypatch.setattr(label_pyramid, "SMALL", 16)
    made, labels = labelled(tmp_path, (3, 1, 32, 8), (1, 1, 1, 1), letters="tzyx")
    build_pyramid(made)
    np.testing.assert_array_equal(made.level(1)[:], labels[:, :, ::2, ::2])
    assert made.level(1).shape == (3, 1, 16, 4)


def test_a_small_label_map_has_one_level(tmp_path):
    made, _ = labelled(tmp_path, (4, 256, 8), (1, 1, 1))
    build_pyramid(made)
    assert len(scales_of(made.folder)) == 1


def test_an_interrupted_pyramid_is_not_announced_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(label_pyramid, "SMALL", 16)
    made, labels = labelled(tmp_path, (4, 64, 64), (1, 1, 1), chunk=(4, 8, 8))
    build_pyramid(made)
    made.labels(Standing()).write((slice(0, 4), slice(0, 64), slice(0, 64)), np.zeros((4, 64, 64), np.uint16))
    real = label_pyramid._subsample
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(label_pyramid, "AT_ONCE", 1)
    monkeypatch.setattr(label_pyramid, "_subsample", stop)
    with pytest.raises(KeyboardInterrupt):
        build_pyramid(made)
    assert not made.is_announced()
    monkeypatch.setattr(label_pyramid, "_subsample", real)
    build_pyramid(made)
    assert made.is_announced()
    assert not made.level(2)[:].any()
    assert labels.any()
