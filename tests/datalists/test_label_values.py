"""What the values of labels say: class numbers, masks of 0 and one other value, or neither."""

import nibabel as nib
import numpy as np
import pytest
from layout_files import drawn, nifti, pixels, png, tif

from pipeline.datalists.dataset_folder import DatasetFolder
from pipeline.datalists.label_values import check_classes, find_mask_value, name_classes, read_label_values, write_mask
from pipeline.errors import InputError

MASK = drawn("0110", "0100", "0000")


def test_the_values_of_every_label(tmp_path):
    labels = {"a": png(tmp_path / "a.png", MASK * 255), "b": png(tmp_path / "b.png", MASK * 0)}
    labels["c"] = tmp_path / "c.png"
    labels["c"].write_bytes(b"nothing")
    left_out = []
    assert read_label_values(labels, 2, left_out) == {"a": {0, 255}, "b": {0}}
    ((file, reason),) = left_out
    assert file == labels["c"]
    assert reason.endswith(", so case 'c' is left out")


@pytest.mark.parametrize(
    ("values", "n_classes", "expected"),
    [
        ({0, 255}, None, 255),
        ({0, 255}, 2, 255),
        ({0, 255}, 3, None),
        ({0, 2}, None, 2),
        ({0, 2}, 3, None),
        ({0, 1}, None, None),
        ({0}, None, None),
        ({255}, None, None),
        ({1, 255}, None, None),
        ({0, 1, 255}, 2, None),
    ],
)
def test_masks_hold_0_and_one_value_that_is_no_class_number(values, n_classes, expected):
    assert find_mask_value(values, n_classes) == expected


def test_values_from_0_on_are_named():
    assert name_classes({0, 1, 2}) == ["background", "class_1", "class_2"]
    with pytest.raises(InputError, match=r"\[0, 1, 3\] are not.*name 4 classes with --classes"):
        name_classes({0, 1, 3})
    with pytest.raises(InputError, match=r"\[0, 1, 255\] are not.*--label-kind instances"):
        name_classes({0, 1, 255})


@pytest.mark.parametrize(
    ("values", "classes", "shown", "remedy"),
    [
        ({0, 3}, 3, "label values 3 are not among the classes 0..2", "name two classes for the values 0 and 3"),
        ({0, 1, 3}, 2, "label values 3 are not among the classes 0..1", "name 4 classes"),
        ({0, 1, 255}, 2, "label values 255 are not", "--label-kind instances"),
        ({-1, 0, 1}, 2, "label values -1 are not", "renumber the labels, or say --label-kind"),
    ],
)
def test_a_contradiction_names_the_case_and_a_remedy(tmp_path, values, classes, shown, remedy):
    names = ["background", "a", "b"][:classes]
    files = {"x": tmp_path / "x.png", "y": tmp_path / "y.png"}
    with pytest.raises(InputError) as caught:
        check_classes({"x": {0}, "y": values}, files, names)
    assert shown in str(caught.value)
    assert remedy in caught.value.remedy
    assert (caught.value.case, caught.value.file) == ("y", str(files["y"]))


def test_fewer_values_than_classes_are_no_contradiction(tmp_path):
    check_classes({"x": {0, 2}}, {"x": tmp_path / "x.png"}, ["background", "a", "b"])


@pytest.mark.parametrize(
    ("write", "suffix", "spatial", "expected"),
    [
        (png, "png", (3, 4), "m/a.png"),
        (png, "bmp", (3, 4), "m/a.png"),
        (tif, "tif", (3, 4), "m/a.png"),
        (tif, "tiff", (2, 3, 4), "m/a.tif"),
    ],
)
def test_pictures_become_0_and_1(tmp_path, write, suffix, spatial, expected):
    stored = np.broadcast_to(MASK * 255, spatial)
    label = write(tmp_path / "mine" / f"a.{suffix}", stored)
    target = DatasetFolder(tmp_path / "mine", tmp_path / "data")
    assert write_mask(target, label, f"m/a.{suffix}", "a", len(spatial)) == expected
    assert np.array_equal(pixels(target.root / expected), stored // 255)


def test_volumes_keep_their_geometry(tmp_path):
    label = nifti(tmp_path / "mine" / "a.nii", np.stack([MASK * 255] * 2))
    target = DatasetFolder(tmp_path / "mine", tmp_path / "data")
    name = write_mask(target, label, "a.nii", "a", 3)
    assert name == "a.nii.gz"
    written = nib.load(target.root / name)
    assert np.array_equal(written.get_fdata(), np.stack([MASK] * 2))
    assert np.array_equal(written.affine, np.diag([1.0, 1, 2, 1]))
