"""The check before training: each kind of damage is found, all of them at once, and a sound set passes quickly."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.datalists.check import check_cases, check_fits
from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.embedded import ensure_data, make_data_list
from pipeline.errors import InputError

NAMES = "abcd"


def picture(seed, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def write(path, array, affine=None):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def data_list(suffix="png", **changes):
    folds = [0, 0, 1, None]
    cases = [
        Case(n, f"images/{n}.{suffix}", f"labels/{n}.{suffix}", fold=fold, split=None if fold is not None else "test")
        for n, fold in zip(NAMES, folds, strict=True)
    ]
    plain = DataList("toy", "", "", "", "", 2, "classes", ("background", "cell"), ("intensity",), tuple(cases))
    return replace(plain, **changes)


@pytest.fixture
def flat(tmp_path):
    """Four 2D cases: a and b validate, c trains, d tests."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / "images" / f"{name}.png", picture(seed))
        write(tmp_path / "labels" / f"{name}.png", picture(seed) % 2)
    return tmp_path


@pytest.fixture
def solid(tmp_path):
    """The same in 3D."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / "images" / f"{name}.nii.gz", picture(seed, (4, 5, 6)).astype(np.int16))
        write(tmp_path / "labels" / f"{name}.nii.gz", picture(seed, (4, 5, 6)) % 2)
    return tmp_path


def solid_list(**changes):
    return data_list("nii.gz", spatial_dims=3, **changes)


def message(listed, top, **options):
    with pytest.raises(InputError) as caught:
        check_cases(listed, top, progress=False, **options)
    return str(caught.value)


def with_case(listed, number, **changes):
    cases = list(listed.cases)
    cases[number] = replace(cases[number], **changes)
    return replace(listed, cases=tuple(cases))


def test_a_sound_set_passes(flat):
    report = check_cases(data_list(), flat)
    assert (report.cases, report.labelled, report.with_foreground, report.warnings) == (4, 4, 4, ())
    assert check_cases(data_list(), flat, split="validation").cases == 2
    assert check_cases(data_list(), flat, split="validation", fold=1).cases == 1
    assert check_cases(data_list(), flat, split="test").cases == 1


def test_a_sound_set_of_volumes_passes(solid):
    assert check_cases(solid_list(), solid).cases == 4


def test_the_embedded_cells_have_no_problem(tmp_path):
    cells = make_data_list("cells")
    ensure_data(cells, tmp_path)
    report = check_cases(cells, tmp_path)
    assert (report.cases, report.with_foreground, report.warnings) == (30, 30, ())


def test_missing_and_damaged_files_are_named(flat):
    (flat / "images/a.png").unlink()
    (flat / "labels/b.png").unlink()
    (flat / "images/c.png").write_bytes((flat / "images/c.png").read_bytes()[:60])
    text = message(data_list(), flat)
    assert "3 problems" in text
    for case, file in (("a", "images/a.png"), ("b", "labels/b.png"), ("c", "images/c.png")):
        assert f"case '{case}', file '{flat / file}'" in text
    assert text.count("Remedy:") == 3


def test_only_the_chosen_split_is_read(flat):
    (flat / "images/c.png").unlink()
    assert check_cases(data_list(), flat, split="validation").cases == 2
    assert "case 'c'" in message(data_list(), flat, split="training")


def test_shapes_of_image_and_label_must_agree(flat):
    write(flat / "labels/a.png", picture(0, (8, 6)) % 2)
    text = message(data_list(), flat)
    assert "case 'a'" in text
    assert "shape (8, 6) differs from (6, 8)" in text


@pytest.mark.parametrize(("shift", "sound"), [(0.0005, True), (0.002, False)])
def test_affines_of_image_and_label_must_agree_to_a_micrometre(solid, shift, sound):
    affine = np.eye(4)
    affine[2, 3] = shift
    write(solid / "labels/c.nii.gz", picture(2, (4, 5, 6)) % 2, affine)
    if sound:
        assert check_cases(solid_list(), solid).cases == 4
    else:
        text = message(solid_list(), solid)
        assert "case 'c'" in text
        assert "affine differs by up to 0.002 mm" in text


def test_a_format_without_geometry_has_no_affine_to_disagree_with(solid):
    stack = picture(0, (4, 5, 6))
    write(solid / "images/a.nii.gz", stack.astype(np.int16), np.diag([2.0, 2, 3, 1]))
    write(solid / "labels/a.tif", stack % 2)
    assert check_cases(with_case(solid_list(), 0, label="labels/a.tif"), solid).cases == 4


def test_label_values_must_be_classes(flat):
    write(flat / "labels/a.png", picture(0) % 2 * 255)
    text = message(data_list(), flat)
    assert "case 'a'" in text
    assert "label values 255 are not among the classes 0..1 (background, cell)" in text
    assert check_cases(data_list(label_kind="instances"), flat).cases == 4


def test_instances_are_any_numbers_but_negative_ones(solid):
    numbers = picture(0, (4, 5, 6)).astype(np.int16) * 100
    write(solid / "labels/a.nii.gz", numbers)
    listed = solid_list(label_kind="instances")
    assert check_cases(listed, solid).cases == 4
    numbers[0, 0, 0] = -1
    write(solid / "labels/a.nii.gz", numbers)
    assert "label value -1 is negative" in message(listed, solid)
    assert "label values -1, " in message(solid_list(), solid)


def test_values_that_are_not_finite_are_found(solid):
    image = picture(1, (4, 5, 6)).astype(np.float32)
    image[1, 2, 3] = np.nan
    write(solid / "images/b.nii.gz", image)
    text = message(solid_list(), solid)
    assert "case 'b'" in text
    assert "NaN" in text


def test_channels_must_be_those_of_the_list(flat):
    write(flat / "images/a.png", picture(9, (6, 8, 3)))
    assert "3 channels, but the list names 1: intensity" in message(data_list(), flat)


def test_channels_in_files_must_lie_on_one_grid(flat):
    listed = data_list(channels=("t1", "t2"))
    for seed, name in enumerate(NAMES):
        write(flat / "images" / f"{name}2.png", picture(seed + 20, (6, 8) if name != "b" else (6, 9)))
        listed = with_case(listed, seed, image=(f"images/{name}.png", f"images/{name}2.png"))
    text = message(listed, flat)
    assert "case 'b'" in text
    assert "b2.png': shape (6, 9) differs from (6, 8)" in text
    write(flat / "images/b2.png", picture(21))
    assert check_cases(listed, flat).cases == 4


@pytest.mark.parametrize(("copy", "divided"), [("c", True), ("d", True), ("b", False)])
def test_equal_images_are_a_problem_between_splits_and_a_warning_within_one(flat, copy, divided):
    shutil.copy(flat / "images/a.png", flat / f"images/{copy}.png")
    if divided:
        text = message(data_list(), flat)
        assert f"case '{copy}'" in text
        assert "has the same content as the image of case 'a' (fold 0; this one: " in text
    else:
        (warning,) = check_cases(data_list(), flat).warnings
        assert warning.case == "b"
        assert "same content" in warning.reason


def test_equal_labels_are_nobodys_business(flat):
    shutil.copy(flat / "labels/a.png", flat / "labels/c.png")
    assert check_cases(data_list(), flat).warnings == ()


def test_a_constant_image_is_a_warning(flat):
    for name in "ac":  # and equal constants in two splits are no leak
        write(flat / f"images/{name}.png", np.full((6, 8), 7, np.uint8))
    report = check_cases(data_list(), flat)
    assert [(warning.case, warning.reason) for warning in report.warnings] == [
        ("a", "every value of the image is 7"),
        ("c", "every value of the image is 7"),
    ]


def test_a_split_of_empty_labels_is_a_problem_but_for_a_test_set(flat):
    empty = np.zeros((6, 8), np.uint8)
    write(flat / "labels/a.png", empty)
    write(flat / "labels/d.png", empty)
    assert check_cases(data_list(), flat).with_foreground == 2
    write(flat / "labels/b.png", empty)
    assert "every validation label is empty" in message(data_list(), flat)
    write(flat / "labels/c.png", empty)
    text = message(data_list(), flat)
    assert "every training label is empty" in text
    assert "every test label" not in text


def test_labels_that_cannot_be_read_are_not_called_empty(flat):
    (flat / "labels/c.png").unlink()
    assert "is empty" not in message(data_list(), flat)


def test_a_case_without_a_label_may_only_test(flat):
    assert check_cases(with_case(data_list(), 3, label=None), flat).labelled == 3
    text = message(with_case(data_list(), 0, label=None), flat)
    assert "case 'a': a validation case has no label" in text


def test_an_empty_list_or_split_is_a_problem(flat):
    nothing = data_list(cases=())
    assert "no training case" in message(nothing, flat)
    assert "no validation case" in message(nothing, flat)
    assert "has no test case" in message(nothing, flat, split="test")
    assert "has no fold 3" in message(data_list(), flat, fold=3)
    assert "'all the rest' is not a split" in message(data_list(), flat, split="all the rest")


def test_all_problems_come_in_one_go(flat):
    (flat / "images/a.png").unlink()
    write(flat / "labels/b.png", picture(1) % 2 * 7)
    write(flat / "labels/c.png", picture(2, (3, 3)) % 2)
    shutil.copy(flat / "images/b.png", flat / "images/d.png")
    text = message(data_list(), flat)
    assert "4 problems" in text
    for part in ("images/a.png", "label values 7", "shape (3, 3)", "same content"):
        assert part in text


def test_a_config_that_contradicts_the_data_is_told_all_at_once():
    with pytest.raises(InputError) as caught:
        check_fits(make_data_list("organs"), ["background", "cell"], in_channels=2, spatial_dims=2)
    for words in (
        "3 problems",
        "class_names is background, cell",
        "background, liver, kidney, vessel",
        "in_channels is 2",
        "spatial_dims",
    ):
        assert words in str(caught.value)
    check_fits(make_data_list("cells"), ["background", "cell"], in_channels=1, spatial_dims=2)
