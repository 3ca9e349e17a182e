"""A case in numbers, against numbers that are counted by hand."""

import json

import numpy as np
import pytest
from checked_lists import flat_list, solid_list, with_case, write

from pipeline.datalists import fingerprint
from pipeline.datalists.case_findings import look_at_case
from pipeline.datalists.fingerprint import Fingerprint, count_values, digest_voxels


def numbers_of(listed, top):
    found = look_at_case(listed.cases[0], "training", listed, top)
    assert found.problems == []
    return found.fingerprint


def test_a_volume_in_numbers(tmp_path):
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0, :3] = 1
    affine = np.array([[0.0, -2, 0, 5], [-1.5, 0, 0, 5], [0, 0, 4, 5], [0, 0, 0, 1]])
    write(tmp_path / "images/a.nii.gz", image, affine)
    write(tmp_path / "labels/a.nii.gz", label, affine)
    numbers = numbers_of(solid_list(), tmp_path)
    assert (numbers.case, numbers.split, numbers.format, numbers.dtype) == ("a", "training", "NIfTI", "int16")
    assert (numbers.shape, numbers.spacing, numbers.axcodes) == ((2, 3, 4), (1.5, 2, 4), "PLS")
    assert numbers.extent == (3, 6, 16)
    (channel,) = numbers.channels
    assert (channel.channel, channel.minimum, channel.maximum) == ("intensity", 0, 23)
    assert (channel.mean, channel.median) == (11.5, 11.5)
    assert channel.std == pytest.approx(((24**2 - 1) / 12) ** 0.5)  # of 0..n-1
    assert (channel.low, channel.high) == pytest.approx((0.005 * 23, 0.995 * 23))
    background, cell = numbers.classes
    assert (cell.name, cell.voxels, cell.ml) == ("cell", 3, pytest.approx(3 * 1.5 * 2 * 4 / 1000))
    assert (background.voxels, background.ml) == (21, pytest.approx(21 * 12 / 1000))
    assert numbers.foreground == 3 / 24
    assert (numbers.objects, numbers.smallest) == (None, None)


def test_a_picture_in_numbers(tmp_path):
    write(tmp_path / "images/a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
    write(tmp_path / "labels/a.png", np.array([[0, 5, 5, 0], [0, 0, 0, 0], [9, 0, 0, 2]], np.uint8))
    numbers = numbers_of(flat_list(label_kind="instances"), tmp_path)
    assert (numbers.format, numbers.spacing, numbers.axcodes, numbers.extent) == ("PNG", None, None, None)
    assert (numbers.objects, numbers.smallest) == (3, 1)
    assert [(volume.name, volume.voxels, volume.ml) for volume in numbers.classes] == [
        ("background", 8, None),
        ("cell", 4, None),
    ]


def test_a_class_that_is_not_there_has_no_voxels(tmp_path):
    write(tmp_path / "images/a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
    write(tmp_path / "labels/a.png", np.eye(3, 4, dtype=np.uint8) * 2)
    numbers = numbers_of(flat_list(classes=("background", "a", "b")), tmp_path)
    assert [volume.voxels for volume in numbers.classes] == [9, 0, 3]


def test_the_way_through_json_and_back(tmp_path):
    write(tmp_path / "images/a.nii.gz", np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7)
    write(tmp_path / "labels/a.nii.gz", np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2)
    for listed in (solid_list(), with_case(solid_list(), 0, label=None)):
        numbers = numbers_of(listed, tmp_path)
        assert Fingerprint.from_document(json.loads(json.dumps(numbers.document, allow_nan=False))) == numbers


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int64, np.uint64])
def test_values_are_counted(dtype):
    values = np.array([[0, 1, 1], [0, 1, 1]], dtype)
    assert count_values(values) == {0: 2, 1: 4}


def test_values_far_apart_or_below_0_are_counted():
    assert count_values(np.array([-3, -3, 5])) == {-3: 2, 5: 1}
    assert count_values(np.array([0, 2**40, 2**40])) == {0: 1, 2**40: 2}
    assert count_values(np.array([2**63, 2**63 + 1], np.uint64)) == {2**63: 1, 2**63 + 1: 1}


def test_large_images_are_measured_in_pieces(monkeypatch, tmp_path):
    values = np.random.default_rng(0).normal(1000, 5, 1000).reshape(1, 10, 100)
    whole = fingerprint._measure("x", values[0])
    monkeypatch.setattr(fingerprint, "PIECE", 64)  # 1000 voxels are 16 pieces
    pieces = fingerprint._measure("x", values[0])
    assert (pieces.minimum, pieces.maximum) == (whole.minimum, whole.maximum) == (values.min(), values.max())
    assert (pieces.mean, pieces.std) == pytest.approx((values.mean(), values.std()))
    assert pieces.median == np.median(values.reshape(-1)[::16])
    labels = (values > 1000).astype(np.uint8)
    assert count_values(labels) == {0: int((labels == 0).sum()), 1: int(labels.sum())}


def test_a_digest_is_of_values_and_shape():
    values = np.arange(6.0).reshape(2, 3)
    same = digest_voxels(values, np.float32)
    assert digest_voxels(values.astype(np.int16), np.float32) == same
    assert digest_voxels(values * np.array([[-1.0], [1]]) * [[-1], [1]], np.float32) == same
    assert digest_voxels(np.where(values == 0, -0.0, values), np.float32) == same
    assert digest_voxels(values.reshape(3, 2), np.float32) != same
    assert digest_voxels(values + np.eye(2, 3), np.float32) != same
    near = np.array([2**24, 2**24 + 1])
    assert digest_voxels(near, np.int64) != digest_voxels(near[[0, 0]], np.int64)


def test_a_digest_of_pieces_is_that_of_the_whole(monkeypatch):
    values = np.arange(100)
    whole = digest_voxels(values, np.int64)
    monkeypatch.setattr(fingerprint, "PIECE", 7)
    assert digest_voxels(values, np.int64) == whole
