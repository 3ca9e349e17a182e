"""Each kind of bad input, made for real: before training it is an error with a name, in a batch it costs its own case.

docs/reliability.md lists these tests by what they make.
"""

import os
import re
import shutil

import bad_files
import numpy as np
import pytest
import tifffile
import torch
from bad_files import BEYOND_FLOAT32, mask, stored, voxels, write_volume
from blobs import UNET3D, small_training_3d, write_blobs
from data_sets import BAD, CASES, DataSet
from PIL import Image

from pipeline.datalists.folders import list_folders
from pipeline.errors import InputError
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.volumes.writing import write_label_map

ARRAY = voxels(CASES.index(BAD))
LABELS = mask(CASES.index(BAD))
PAGE = (slice(None), slice(None), 0)


@pytest.fixture
def data(tmp_path):
    """Return `make(suffix, label_kind)`, which writes a DataSet."""
    return lambda *arguments: DataSet(tmp_path / "data", *arguments)


def refused_before_training(cases, file, words):
    """The check that train.json makes names case, file, reason and remedy."""
    with pytest.raises(InputError, match=words) as caught:
        cases.check()
    for word in (f"case '{BAD}'", str(file), "Remedy: "):
        assert word in str(caught.value)


def fails_alone(batch, cases, words):
    """In a batch one case fails, with case, file, reason and remedy, and the others come out right."""
    assert batch.done == set(CASES) - {BAD}
    assert all(cases.is_right(case, batch.out / f"{case}{cases.suffix}") for case in batch.done)
    reason = batch.reasons[BAD]
    assert re.search(words, reason)
    for word in (f"case '{BAD}'", str(cases.image()), "Remedy: "):
        assert word in reason
    assert not [file for file in batch.out.rglob("*") if file.name.startswith((f"{BAD}.", ".tmp-"))]
    assert "1 of 4 images were not predicted" in str(batch.error)
    assert reason in str(batch.error)


@pytest.fixture
def bad_image(data, predict):
    """Return `bad_image(spoil, words, suffix)`: it is refused before training, and fails alone in a batch."""

    def refused(spoil, words, suffix=".nii.gz", **overrides):
        cases = data(suffix)
        spoil(cases.image(), ARRAY)
        refused_before_training(cases, cases.image(), words)
        fails_alone(predict(cases.folder / "images", dims=cases.dims, **overrides), cases, words)

    return refused


@pytest.fixture
def bad_label(data):
    """Return `bad_label(spoil, words, label_kind)`: it is refused before training."""

    def refused(spoil, words, label_kind="classes"):
        cases = data(".nii.gz", label_kind)
        spoil(cases.label(), LABELS)
        refused_before_training(cases, cases.label(), words)

    return refused


def test_the_data_set_is_sound(data, predict):
    for suffix in (".nii.gz", ".png"):
        cases = data(suffix)
        cases.check()
        batch = predict(cases.folder / "images", dims=cases.dims)
        assert (batch.done, batch.error) == (set(CASES), None)
        assert all(cases.is_right(case, batch.out / f"{case}{suffix}") for case in CASES)
        shutil.rmtree(cases.folder)
        shutil.rmtree(batch.out)


# bytes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_nifti(bad_image, suffix):
    bad_image(bad_files.cut, r"truncated|EOFError", suffix)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_a_truncated_file_that_itk_would_fill_with_zeros(bad_image, suffix):
    bad_image(bad_files.cut_voxels if suffix == ".mhd" else bad_files.cut, "truncated", suffix)


@pytest.mark.parametrize("damage", [bad_files.flip, bad_files.wrong_crc])
def test_damaged_gzip_bytes(bad_image, damage):
    bad_image(damage, "cannot be read|truncated")


# voxels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_not_finite(bad_image, value):
    bad_image(bad_files.with_voxel(value), r"1 of 504 voxels are NaN or infinite, the first at \(4, 3, 2\)")


# image and label


def test_a_missing_label_shifts_no_pair(data, tmp_path):
    cases = data()
    cases.label().unlink()
    refused_before_training(cases, cases.label(), "does not exist")
    listing = list_folders(cases.folder / "images", cases.folder / "labels")
    pairs = {case.id: (case.image, case.label) for case in listing.data_list.cases}
    assert pairs == {case: (f"images/{case}.nii.gz", f"labels/{case}.nii.gz") for case in CASES if case != BAD}
    assert listing.left_out == [(cases.image(), f"there is no label '{BAD}'")]


def test_a_label_that_is_flipped_in_its_affine(bad_label):
    bad_label(bad_files.flipped_in_its_affine, "affine|flip|direction")


def test_a_label_that_lies_30_mm_away(bad_label):
    bad_label(bad_files.shifted, "30")


@pytest.mark.parametrize("spoil", [bad_files.of_other_spacing, bad_files.on_a_finer_grid])
def test_a_label_of_another_spacing(bad_label, spoil):
    bad_label(spoil, r"affine|spacing|shape \(18, 16, 14\)")


# geometry


def test_two_forms_that_disagree(bad_image):
    bad_image(bad_files.forms_that_disagree, "qform and sform disagree")


def test_neither_form(bad_image):
    bad_image(bad_files.neither_form, "neither a qform nor an sform")


def test_a_sheared_affine(bad_image):
    bad_image(bad_files.sheared, "sheared")


@pytest.mark.parametrize("spoil", [bad_files.zero_sform, bad_files.nan_sform])
def test_an_sform_of_zeros_or_nan(bad_image, spoil):
    bad_image(spoil, "sform has a non-finite value or an axis of length 0")


@pytest.mark.parametrize("spoil", [bad_files.thousandth_spacing, bad_files.thousandfold_spacing])
def test_a_spacing_in_the_wrong_unit(bad_image, spoil):
    """At 0.001 mm the volume would become one voxel, at 1000 times its size fill the memory."""
    bad_image(spoil, "spacing|voxels?|mm", spacing=[1.5, 2.0, 3.0])


# shape


def test_an_image_of_four_axes(bad_image):
    bad_image(bad_files.four_axes, "3 channels")


def test_a_label_of_colours(bad_label):
    bad_label(bad_files.colours, "whole or real numbers are expected")


def test_an_axis_of_size_0(bad_image):
    bad_image(bad_files.without_an_axis, "axis of size 0")


# label values


@pytest.mark.parametrize("value", [255, -1])
def test_a_label_value_beyond_the_classes(bad_label, value):
    bad_label(bad_files.value_beyond_the_classes(value), rf"{value}\b.* classes 0\.\.1")


@pytest.mark.parametrize(("spoil", "words"), [(bad_files.halves, "not whole numbers"), (bad_files.scaled, "scl_slope")])
def test_labels_that_are_not_whole_numbers(bad_label, spoil, words):
    bad_label(spoil, words)


def test_instance_ids_beyond_what_float32_tells_apart(data, tmp_path):
    cases = data(".nii.gz", "instances")
    ids = bad_files.ids_beyond_float32(cases.label())
    cases.check()
    label = StrictLoadImaged(keys="label", spatial_dims=3)({"label": str(cases.label())})["label"]
    assert label.unique().tolist() == [0, BEYOND_FLOAT32 - 1, BEYOND_FLOAT32]
    write_label_map(tmp_path / "again.nii.gz", label[0].numpy(), like=cases.label())
    np.testing.assert_array_equal(stored(tmp_path / "again.nii.gz"), ids)


def test_validation_masks_that_are_all_empty(data):
    cases = data()
    for case in "ab":
        bad_files.empty(cases.label(case), LABELS)
    with pytest.raises(InputError, match=r"every validation label is empty.* Remedy: "):
        cases.check()


# pictures


def test_a_tiff_of_several_pages_is_no_picture(bad_image):
    bad_image(bad_files.several_pages, "holds 7 pages; this bundle takes 2D images", ".tif")


def test_a_tiff_of_several_pages_is_a_volume(predict, tmp_path):
    (tmp_path / "in").mkdir()
    bad_files.several_pages(tmp_path / "in" / "a.tif", ARRAY)
    batch = predict(tmp_path / "in")
    assert batch.rows["a"]["shape"] == [7, 9, 8]
    np.testing.assert_array_equal(tifffile.imread(batch.out / "a.tif"), np.moveaxis(LABELS, -1, 0))


def test_a_palette_is_read_by_index_in_a_label_and_refused_in_an_image(data, predict, tmp_path):
    cases = data(".png")
    bad_files.palette(cases.label(), LABELS[PAGE])
    cases.check()
    label = StrictLoadImaged(keys="label", spatial_dims=2)({"label": str(cases.label())})["label"]
    np.testing.assert_array_equal(label[0], LABELS[PAGE])
    bad_files.palette(cases.image(), LABELS[PAGE])
    refused_before_training(cases, cases.image(), "has a palette")
    fails_alone(predict(cases.folder / "images", dims=2), cases, "has a palette")


def test_a_picture_of_one_bit_holds_0_and_1(data, predict):
    cases = data(".png")
    bad_files.one_bit(cases.label(), LABELS[PAGE])
    bad_files.one_bit(cases.image(), LABELS[PAGE])
    cases.check()
    label = StrictLoadImaged(keys="label", spatial_dims=2)({"label": str(cases.label())})["label"]
    np.testing.assert_array_equal(label[0], LABELS[PAGE])
    batch = predict(cases.folder / "images", dims=2)
    np.testing.assert_array_equal(Image.open(batch.out / f"{BAD}.png"), LABELS[PAGE])


# what has changed, and what has the same name


def overwrite(file, write):
    """Change a file's content, but neither its size nor its times."""
    size, times = file.stat().st_size, (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    write(file)
    os.utime(file, ns=times)
    assert file.stat().st_size == size


def test_a_file_that_changed_after_it_was_checked(data):
    cases = data(".nii")
    cases.check()
    other = LABELS.copy()
    other[0, 1, 2] = 255
    overwrite(cases.label(), lambda file: write_volume(file, other))
    refused_before_training(cases, cases.label(), "255")


def test_a_file_or_a_setting_that_changed_after_it_was_predicted(predict, tmp_path):
    for number, case in enumerate("ab"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_volume(tmp_path / "in" / f"{case}.nii", voxels(number))
    predict(tmp_path / "in")
    overwrite(tmp_path / "in" / "a.nii", lambda file: write_volume(file, ARRAY))
    batch = predict(tmp_path / "in", resume=True)
    np.testing.assert_array_equal(stored(batch.out / "a.nii"), LABELS)
    np.testing.assert_array_equal(stored(batch.out / "b.nii"), mask(1))
    inverted = [{"_target_": "ScaleIntensityd", "keys": "image", "minv": None, "maxv": None, "factor": -2.0}]
    batch = predict(tmp_path / "in", resume=True, normalisation=inverted)
    np.testing.assert_array_equal(stored(batch.out / "a.nii"), ARRAY < 0)


def test_equal_names_in_two_folders(predict, tmp_path):
    for number, folder in enumerate("xy"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_volume(tmp_path / "in" / folder / "scan.nii.gz", voxels(number))
    batch = predict(tmp_path / "in")
    assert batch.done == {"x/scan", "y/scan"}
    for number, folder in enumerate("xy"):
        np.testing.assert_array_equal(stored(batch.out / folder / "scan.nii.gz"), mask(number))


# the whole batch


def test_one_corrupt_file_of_each_format_stops_no_other(predict, tmp_path):
    (tmp_path / "in").mkdir()
    suffixes = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif")
    for number, suffix in enumerate(suffixes):
        for state in ("bad", "good"):
            write_volume(tmp_path / "in" / f"{number}-{state}{suffix}", voxels(number))
        bad_files.cut(tmp_path / "in" / f"{number}-bad{suffix}", part=0.3)
    batch = predict(tmp_path / "in")
    assert batch.done == {f"{number}-good" for number in range(len(suffixes))}
    assert "6 of 12 images were not predicted" in str(batch.error)
    for number, suffix in enumerate(suffixes):
        reason = batch.reasons[f"{number}-bad"]
        assert f"case '{number}-bad', file '{tmp_path / 'in'}/{number}-bad{suffix}'" in reason
        assert "Remedy: " in reason


# the whole training


def spoil_and_train(spoil, run_bundle, tmp_path, monkeypatch):
    write_blobs(tmp_path / "data", count=4)
    spoil(tmp_path / "data")
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("a step of training"))
    with pytest.raises(InputError) as caught:
        run_bundle("training", UNET3D / "configs" / "train.json", **small_training_3d(tmp_path / "data"))
    assert not (tmp_path / "runs").exists()
    return str(caught.value)


def label_beyond(folder):
    file = folder / "labels" / "blobs_0.nii.gz"
    bad_files.value_beyond_the_classes(255)(file, stored(file))


def image_cut(folder):
    bad_files.cut(folder / "images" / "blobs_0.nii.gz")


def image_missing(folder):
    (folder / "images" / "blobs_0.nii.gz").unlink()


@pytest.mark.parametrize(
    ("spoil", "word"), [(label_beyond, "labels/blobs_0"), (image_cut, "images/blobs_0"), (image_missing, "not exist")]
)
def test_no_training_begins_with_bad_data(spoil, word, run_bundle, tmp_path, monkeypatch):
    message = spoil_and_train(spoil, run_bundle, tmp_path, monkeypatch)
    for part in ("case 'blobs_0'", word, "Remedy: "):
        assert part in message
