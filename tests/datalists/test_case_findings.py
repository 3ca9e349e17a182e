"""What the files of one case show."""

from dataclasses import replace

import numpy as np
import pytest
from checked_lists import (
    GRID,
    NAMES,
    flat_list,
    make_flat,
    make_solid,
    mask,
    picture,
    scan,
    solid_list,
    with_case,
    write,
)

from pipeline.datalists.case_findings import look_at_case


@pytest.fixture
def flat(tmp_path):
    return make_flat(tmp_path)


@pytest.fixture
def solid(tmp_path):
    return make_solid(tmp_path)


def look(listed, top, number=0):
    return look_at_case(listed.cases[number], "training", listed, top)


def problems(listed, top, number=0):
    return [problem.reason for problem in look(listed, top, number).problems]


def test_a_sound_case(solid):
    found = look(solid_list(), solid)
    assert (found.problems, found.oddities, found.foreground) == ([], [], True)
    assert list(found.images) == ["images/a.nii.gz"]
    assert found.fingerprint.case == "a"


def test_shapes_of_image_and_label_must_agree(flat, solid):
    write(flat / "labels/a.png", picture(0, (8, 6)) % 2)
    (reason,) = problems(flat_list(), flat)
    assert reason == f"shape (8, 6) differs from (6, 8) of '{flat}/images/a.png'"
    write(solid / "labels/a.nii.gz", mask(0)[..., ::2], GRID * [1, 1, 2, 1])
    (reason,) = problems(solid_list(), solid)
    assert reason.endswith("a.nii.gz', spacing 1 x 1 x 4 mm and 1 x 1 x 2 mm")


@pytest.mark.parametrize(
    ("scale", "shift", "sound"), [(1, 0.04, True), (1, 0.06, False), (1e-3, 4e-5, True), (1e-3, 6e-5, False)]
)
def test_image_and_label_lie_on_one_grid_to_a_twentieth_of_a_voxel(solid, scale, shift, sound):
    affine = np.diag([scale, scale, scale, 1.0])
    write(solid / "images/a.nii.gz", scan(0), affine)
    affine[2, 3] = shift
    write(solid / "labels/a.nii.gz", mask(0), affine)
    expected = [] if sound else [f"origin lies {shift:.3g} mm from that of '{solid}/images/a.nii.gz'"]
    assert problems(solid_list(), solid) == expected


def test_the_words_for_a_grid_that_is_another_one(solid):
    turned = np.deg2rad(5)
    oblique = GRID.copy()
    oblique[:2, :2] = [[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]
    for affine, words in (
        (GRID * [[1], [1], [-1], [1]], "its axes point along RAI, not RAS like those of"),
        (np.diag([1, 1, 2.1, 1]), "spacing 1 x 1 x 2.1 mm differs from 1 x 1 x 2 mm of"),
        (oblique, "its axes are turned by up to 5 degrees against those of"),
    ):
        write(solid / "labels/a.nii.gz", mask(0), affine)
        (reason,) = problems(solid_list(), solid)
        assert reason.startswith(words)


def test_formats_with_a_geometry_agree_with_each_other(solid):
    write(solid / "labels/a.mha", mask(0))
    assert problems(with_case(solid_list(), 0, label="labels/a.mha"), solid) == []
    write(solid / "labels/a.nrrd", mask(0), GRID * 2)
    assert "differs from" in problems(with_case(solid_list(), 0, label="labels/a.nrrd"), solid)[0]


def test_a_volume_without_geometry_fits_only_one_that_lies_nowhere_else(solid):
    write(solid / "labels/a.tif", mask(0))
    listed = with_case(solid_list(), 0, label="labels/a.tif")
    assert problems(listed, solid) == [f"has no geometry (TIFF), unlike the voxels of '{solid}/images/a.nii.gz'"]
    write(solid / "images/a.nii.gz", scan(0), np.eye(4))
    assert problems(listed, solid) == []
    write(solid / "images/a.tif", scan(0))
    listed = with_case(solid_list(), 0, image="images/a.tif")
    assert problems(listed, solid) == [f"has a geometry, unlike the voxels (TIFF) of '{solid}/images/a.tif'"]


@pytest.mark.parametrize(("shape", "odd"), [((6, 6), True), ((6, 8), False)])
def test_a_square_slice_and_a_picture_may_be_transposed(flat, shape, odd):
    write(flat / "images/a.nii.gz", picture(0, shape), np.eye(4) * 0.7)
    write(flat / "labels/a.png", picture(1, shape) % 2)
    found = look(with_case(flat_list(), 0, image="images/a.nii.gz"), flat)
    assert found.problems == []
    assert [oddity.file for oddity in found.oddities] == (["labels/a.png"] if odd else [])


def test_label_values_must_be_classes(flat):
    write(flat / "labels/a.png", picture(0) % 2 * 255)
    assert problems(flat_list(), flat) == ["label values 255 are not among the classes 0..1 (background, cell)"]
    assert look(flat_list(), flat).fingerprint.classes is None
    assert problems(flat_list(label_kind="instances"), flat) == []


def test_instances_are_any_numbers_but_negative_ones(solid):
    numbers = picture(0, (4, 5, 6)).astype(np.int16) * 100
    listed = solid_list(label_kind="instances")
    write(solid / "labels/a.nii.gz", numbers)
    assert problems(listed, solid) == []
    numbers[0, 0, 0] = -1
    write(solid / "labels/a.nii.gz", numbers)
    assert problems(listed, solid) == ["label value -1 is negative"]
    assert problems(solid_list(), solid)[0].startswith("label values -1, ")
    huge = numbers.astype(np.uint64)
    huge.flat[:] = [0, 2**63] * 60
    write(solid / "labels/a.nii.gz", huge)
    assert problems(listed, solid) == ["label 9223372036854775808 exceeds 2^63"]


def test_numbers_above_2_to_the_24th_stay_apart(solid):
    numbers = np.zeros((4, 5, 6), np.uint32)
    numbers.flat[:3] = 2**24, 2**24 + 1, 2**32 - 1  # float32 knows the first two as one
    write(solid / "labels/a.nii.gz", numbers)
    found = look(solid_list(label_kind="instances"), solid)
    assert (found.problems, found.fingerprint.objects) == ([], 3)


def test_channels_must_be_those_of_the_list(flat):
    write(flat / "images/a.png", picture(9, (6, 8, 3)))
    assert problems(flat_list(), flat) == ["3 channels, but the list names 1: intensity"]
    colours = flat_list(channels=("red", "green", "blue"))
    assert [entry.channel for entry in look(colours, flat).fingerprint.channels] == ["red", "green", "blue"]


def test_channels_in_files_must_lie_on_one_grid(flat, solid):
    listed = flat_list(channels=("t1", "t2"))
    for seed, name in enumerate(NAMES):
        write(flat / "images" / f"{name}2.png", picture(seed + 20, (6, 8) if name != "b" else (6, 9)))
        listed = with_case(listed, seed, image=(f"images/{name}.png", f"images/{name}2.png"))
    (reason,) = problems(listed, flat, 1)
    assert reason.startswith("shape (6, 9) differs from (6, 8)")
    assert problems(listed, flat, 0) == []
    write(flat / "images/a2.nii.gz", picture(30), np.eye(4) * 0.7)  # loading would refuse it
    mixed = with_case(listed, 0, image=("images/a.png", "images/a2.nii.gz"))
    assert problems(mixed, flat)[0].startswith("has a geometry, unlike the voxels (PNG)")


def test_a_damaged_image_does_not_hide_what_is_wrong_with_the_label(solid):
    image = scan(0).astype(np.float32)
    image[1, 2, 3] = np.nan
    write(solid / "images/a.nii.gz", image)
    write(solid / "labels/a.nii.gz", mask(0) * 9, GRID * 3)
    nan, grid, values = problems(solid_list(), solid)
    assert "NaN" in nan
    assert grid.startswith("spacing 3 x 3 x 6 mm differs")
    assert values.startswith("label values 9")


def test_a_constant_image_is_odd_and_has_no_digest(flat):
    write(flat / "images/a.png", np.full((6, 8), 7, np.uint8))
    found = look(flat_list(), flat)
    assert [(odd.reason, odd.file) for odd in found.oddities] == [("every value of the image is 7", "images/a.png")]
    assert found.images == {}


@pytest.mark.parametrize(("drawn", "has"), [(0, False), (99, False), (100, True), (299, True), (301, False)])
def test_a_label_of_which_hardly_anything_is_drawn_has_no_digest(flat, drawn, has):
    label = np.arange(400).reshape(20, 20) < drawn  # beyond 300 fewer than 100 pixels are background
    write(flat / "images/a.png", picture(0, (20, 20)))
    write(flat / "labels/a.png", label.astype(np.uint8))
    found = look(flat_list(), flat)
    assert (found.label is not None, found.foreground) == (has, drawn > 0)


def test_a_case_without_a_label(flat):
    listed = flat_list()
    found = look_at_case(replace(listed.cases[0], label=None), "test", listed, flat)
    assert (found.problems, found.foreground, found.fingerprint.classes) == ([], None, None)


@pytest.mark.parametrize(("outlier", "kind"), [(2e6, ""), (1e8, "odd"), (-1e8, "odd"), (1e12, "lost"), (1e30, "lost")])
def test_one_voxel_that_spoils_the_normalisation(solid, outlier, kind):
    """Of 8000 voxels within 0..255 one of v makes the deviation v / 89: 255 are 0.011 of it for v of 2 million,
    0.0002 for 100 million, and no 10^-6 for 10^12.
    """
    image = picture(0, (20, 20, 20)).astype(np.float32)
    image[3, 4, 5] = outlier
    write(solid / "images/a.nii.gz", image)
    write(solid / "labels/a.nii.gz", picture(1, image.shape) % 2)
    found = look(solid_list(), solid)
    reasons = [problem.reason for problem in found.problems], [odd.reason for odd in found.oddities]
    assert [len(kind) for kind in reasons] == [kind == "lost", kind == "odd"]
    assert (found.fingerprint is None) == (kind == "lost")
    for reason in (*reasons[0], *reasons[1]):
        assert f"{outlier:.4g}" in reason
        assert reason.endswith("makes these equal" if kind == "lost" else "makes these nearly equal")


def test_a_few_bright_spots_are_no_outliers(flat):
    image = picture(0, (100, 100)).astype(np.uint16) // 32  # noise of 0..7
    image[::10, ::20] = 65535  # 0.5 % of it
    write(flat / "images/a.tif", image)
    write(flat / "labels/a.png", picture(1, (100, 100)) % 2)
    found = look(with_case(flat_list(), 0, image="images/a.tif"), flat)
    assert (found.problems, found.oddities) == ([], [])
