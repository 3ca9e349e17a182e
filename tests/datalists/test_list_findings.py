"""What the cases of a list show only together."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from checked_lists import GRID, flat_list, make_flat, make_solid, mask, picture, scan, solid_list, with_case, write

from pipeline.datalists.check import examine_cases


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def flat(tmp_path):
    return make_flat(tmp_path)


@pytest.fixture
def solid(tmp_path):
    return make_solid(tmp_path)


def found(listed, top, **options):
    report = examine_cases(listed, top, progress=False, **options)
    words = [[(one.case, one.reason) for one in kind] for kind in (report.problems, report.warnings)]
    return words[0], words[1]


def rescaled(folder, name, scale):
    """Write both files of a case with voxels `scale` times as large."""
    affine = GRID * np.array([*np.broadcast_to(scale, 3), 1])
    write(folder / f"images/{name}.nii.gz", scan(ord(name)), affine)
    write(folder / f"labels/{name}.nii.gz", mask(ord(name)), affine)


@pytest.mark.parametrize(("copy", "divided"), [("c", True), ("d", True), ("b", False)])
def test_equal_images_are_a_problem_between_splits_and_a_warning_within_one(flat, copy, divided):
    shutil.copy(flat / "images/a.png", flat / f"images/{copy}.png")
    problems, warnings = found(flat_list(), flat)
    place = {"b": "fold 0", "c": "fold 1", "d": "test"}[copy]
    reason = f"has the same content as the image of case 'a' (fold 0; this one: {place})"
    assert (problems, warnings) == (([(copy, reason)], []) if divided else ([], [(copy, reason)]))


def test_an_image_that_was_saved_again_is_a_copy(solid):
    write(solid / "images/c.mha", scan(0))  # another format
    write(solid / "images/d.nii.gz", scan(0).astype(np.float64))  # another type
    problems, _ = found(with_case(solid_list(), 2, image="images/c.mha"), solid)
    assert [case for case, _ in problems] == ["c", "d"]


def test_an_image_that_was_turned_is_a_copy(solid):
    image, label = (nib.load(solid / folder / "a.nii.gz") for folder in ("images", "labels"))
    turn = nib.orientations.axcodes2ornt("PIL")
    nib.save(image.as_reoriented(turn), solid / "images/c.nii.gz")
    nib.save(label.as_reoriented(turn), solid / "labels/c.nii.gz")
    problems, _ = found(solid_list(), solid)
    assert [case for case, _ in problems] == ["c"]
    assert "content as the image of case 'a'" in problems[0][1]


def test_channels_in_one_file_and_in_several_are_copies_named_once(solid):
    listed = solid_list(channels=("t1", "t2"))
    for seed, name in enumerate("abcd"):
        write(solid / f"images/{name}.nii.gz", np.stack([scan(seed), scan(seed + 50)], -1))
    for channel, seed in (("t1", 0), ("t2", 50)):  # those of a
        write(solid / f"images/c_{channel}.nii.gz", scan(seed))
    listed = with_case(listed, 2, image=("images/c_t1.nii.gz", "images/c_t2.nii.gz"))
    problems, warnings = found(listed, solid)
    assert ([case for case, _ in problems], warnings) == (["c"], [])


def test_grey_stored_in_colours_is_no_copy_of_itself(flat):
    for seed, name in enumerate("abcd"):
        write(flat / f"images/{name}.png", np.stack([picture(seed)] * 3, -1))
    assert found(flat_list(channels=("red", "green", "blue")), flat) == ([], [])


def test_equal_channels_of_one_case_are_a_warning(flat):
    listed = with_case(
        flat_list(channels=("t1", "t2"), cases=flat_list().cases[:1]), 0, image=("images/a.png", "images/b.png")
    )
    shutil.copy(flat / "images/a.png", flat / "images/b.png")
    _, warnings = found(listed, flat, split="validation")
    assert [case for case, reason in warnings if "same content as the image of case 'a'" in reason] == ["a"]


def test_equal_constant_images_are_no_copies(flat):
    for name in "ac":
        write(flat / f"images/{name}.png", np.full((6, 8), 7, np.uint8))
    problems, warnings = found(flat_list(), flat)
    assert problems == []
    assert [case for case, _ in warnings] == ["a", "c"]


def test_equal_labels_of_different_images_are_a_warning(flat):
    for seed, name in enumerate("ac"):
        write(flat / f"images/{name}.png", picture(seed, (30, 40)))
        write(flat / f"labels/{name}.png", picture(7, (30, 40)) % 2)
    assert found(flat_list(), flat) == (
        [],
        [("c", "has the same content as the label of case 'a', whose image is another")],
    )
    shutil.copy(flat / "images/a.png", flat / "images/c.png")  # the whole case twice is said once
    problems, warnings = found(flat_list(), flat)
    assert (len(problems), warnings) == (1, [])


def test_equal_empty_labels_are_nobodys_business(flat):
    for name in "bd":
        write(flat / f"labels/{name}.png", np.zeros((6, 8), np.uint8))
    assert found(flat_list(), flat) == ([], [])


@pytest.mark.parametrize(("split", "cases"), [("training", "c"), ("validation", "ab")])
def test_a_class_that_a_split_lacks_is_a_warning(flat, split, cases):
    listed = flat_list(classes=("background", "cell", "vessel"))
    for seed, name in enumerate("abcd"):
        write(flat / f"labels/{name}.png", picture(seed) % (2 if name in cases else 3))
    assert found(listed, flat) == ([], [(None, f"no {split} label holds the class 'vessel'")])


@pytest.mark.parametrize(
    ("scale", "sound"), [(1e-3, False), (1000, False), ([1, 1, 1e-3], False), (25, True), (1 / 40, True)]
)
def test_a_spacing_of_another_unit_than_the_others(solid, scale, sound):
    rescaled(solid, "c", scale)
    problems, _ = found(solid_list(), solid)
    assert [case for case, _ in problems] == ([] if sound else ["c"])


def test_axes_in_another_order_are_no_other_unit(solid):
    """80 mm from slice to slice beside 1 mm: the same along the patient, whatever the order in the file."""
    for name in "abd":
        rescaled(solid, name, [1, 1, 40])
    swapped = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [80, 0, 0, 0], [0, 0, 0, 1]])
    write(solid / "images/c.nii.gz", scan(2), swapped)
    write(solid / "labels/c.nii.gz", mask(2), swapped)
    assert found(solid_list(), solid) == ([], [])


def test_voxels_that_no_scanner_has_are_one_warning_for_a_whole_list(solid):
    for name in "abcd":
        rescaled(solid, name, 3e-4)  # microscopy, or the wrong unit: nobody can tell
    problems, ((case, reason),) = found(solid_list(), solid)
    assert (problems, case) == ([], "a")
    assert reason == "spacing 0.0003 x 0.0003 x 0.0006 mm is none of a scanner for patients (4 volumes are like that)"


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ([1, 1, 2], None),
        ([None, None, 1.0], None),
        ([1, 1, 12], None),  # 6 slices of 2 mm become 1, but 6 are no volume that a unit has shrunk
        ([1, 1, 101], "spacing of 101 mm makes 1 of 6 voxels of 2 mm (S)"),  # beyond a factor of 50
        ([0.019, 1, 2], "spacing of 0.019 mm makes 211 of 4 voxels of 1 mm (R)"),
        ([0.021, 1, 2], None),
    ],
)
def test_the_networks_spacing_suits_the_volumes(solid, spacing, words):
    rescaled(solid, "c", 1)
    problems, _ = found(solid_list(), solid, split="training", spacing=spacing)
    assert [reason for _, reason in problems] == ([f"the network's {words}"] if words else [])


def test_a_volume_of_many_voxels_that_shrinks_to_a_few(solid):
    image = np.random.default_rng(0).integers(0, 9, (30, 40, 50)).astype(np.int16)
    write(solid / "images/c.nii.gz", image, np.eye(4))
    write(solid / "labels/c.nii.gz", (image > 4).astype(np.uint8), np.eye(4))
    ((case, reason),), _ = found(solid_list(), solid, split="training", spacing=[11, 11, 12.4])
    assert (case, reason) == ("c", "the network's spacing of 11 mm makes 3 of 30 voxels of 1 mm (R)")
    assert found(solid_list(), solid, split="training", spacing=[8, 11, 12.4])[0] == []  # 4 of 30, 40, 50


def test_the_networks_axes_are_those_of_the_patient(solid):
    """A network that looks from the side has its third axis from left to right."""
    rescaled(solid, "c", [1, 1, 50])
    assert found(solid_list(), solid, split="training", spacing=[100, 1, 1], axcodes="SAR")[0] == []
    assert len(found(solid_list(), solid, split="training", spacing=[100, 1, 1], axcodes="RAS")[0]) == 1


@pytest.mark.parametrize(("spacing", "axcodes"), [([0, -1, 0], "RAS"), ([500, 500, 500], "XYZ")])
def test_a_grid_that_is_none_is_left_to_the_transform(solid, spacing, axcodes):
    assert found(solid_list(), solid, spacing=spacing, axcodes=axcodes)[0] == []
