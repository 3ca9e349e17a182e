"""One mask a nucleus becomes one map of numbers; grey and coloured images, as published and merged before."""

import numpy as np
import pytest
from layout_files import check, drawn, images, labels, noise, places, png, reasons, refusal, stamps

from pipeline.datalists.dsb2018 import list_dsb2018

FIRST, SECOND = drawn("11000", "11000", "00000"), drawn("00000", "00011", "00011")
MERGED = FIRST + 2 * SECOND


def rgba(*channels):
    return np.dstack([*channels, np.full_like(channels[0], 255)])


def sample(stage, name, image, *masks):
    png(stage / name / "images" / f"{name}.png", image)
    for letter, mask in zip("abcdef", masks, strict=False):
        png(stage / name / "masks" / f"{letter}.png", mask * 255)


def grey(seed):
    return rgba(*[noise(seed, 3, 5)] * 3)


def coloured(seed):
    return rgba(*(noise(seed + channel, 3, 5) for channel in range(3)))


@pytest.fixture
def bowl(tmp_path):
    """Four grey training images, RGBA, with two nuclei each, and a test image."""
    for seed, name in enumerate("wxyz"):
        sample(tmp_path / "bowl" / "stage1_train", name, grey(seed), FIRST, SECOND)
    sample(tmp_path / "bowl" / "stage1_test", "t", grey(9))
    return tmp_path / "bowl"


def test_masks_are_merged_and_grey_images_have_one_channel(bowl, tmp_path):
    listing = list_dsb2018(bowl, tmp_path / "data", n_folds=2)
    listed = listing.data_list
    assert [(case.id, case.image, case.label) for case in listed.cases] == [
        *((name, f"images/{name}.png", f"labels/{name}.png") for name in "wxyz"),
        ("t", "images/t.png", None),
    ]
    assert sorted(places(listing).values()) == ["fold 0", "fold 0", "fold 1", "fold 1", "test"]
    assert (listed.channels, listed.classes) == (("intensity",), ("background", "nucleus"))
    assert listed.label_kind == "instances"
    for seed, name in enumerate("wxyz"):
        assert np.array_equal(labels(listing)[name], MERGED)
        assert labels(listing)[name].dtype == np.uint16
        assert np.array_equal(images(listing)[name], noise(seed, 3, 5))
    assert listing.left_out == []
    assert check(listing, tmp_path).labelled == 4
    before = stamps(tmp_path)
    assert list_dsb2018(bowl, tmp_path / "data", n_folds=2) == listing
    assert stamps(tmp_path) == before


def test_one_coloured_image_gives_all_three_channels(bowl, tmp_path):
    sample(bowl / "stage1_train", "v", coloured(20), FIRST)
    sample(bowl / "stage1_train", "u", noise(30, 3, 5), FIRST)
    listing = list_dsb2018(bowl, tmp_path / "data", n_folds=2)
    assert listing.data_list.channels == ("red", "green", "blue")
    assert listing.left_out == []
    assert (listing.dataset_dir / "images" / "v.png").is_symlink(), "an opaque alpha channel is no reason to convert"
    assert np.array_equal(images(listing)["u"], np.dstack([noise(30, 3, 5)] * 3))
    assert check(listing, tmp_path).cases == 7


def test_coloured_images_are_left_out_of_a_grey_list(bowl, tmp_path):
    sample(bowl / "stage1_train", "v", coloured(20), FIRST)
    sample(bowl / "stage1_test", "s", coloured(30))
    listing = list_dsb2018(bowl, tmp_path / "data", channels="grey", n_folds=2)
    assert listing.data_list.channels == ("intensity",)
    assert list(places(listing)) == [*"wxyzt"]
    assert reasons(listing) == [("s.png", "is coloured"), ("v.png", "is coloured")]
    check(listing, tmp_path)


def test_common_pixels_belong_to_the_first_mask_and_the_others_are_reported(bowl, tmp_path):
    overlapping = drawn("01100", "00000", "00000")
    covered = drawn("10000", "00000", "00000")
    sample(bowl / "stage1_train", "v", grey(20), FIRST, overlapping, covered, FIRST * 0, SECOND)
    listing = list_dsb2018(bowl, tmp_path / "data", n_folds=2)
    assert np.array_equal(labels(listing)["v"], drawn("11200", "11033", "00033"))
    assert reasons(listing) == [
        ("b.png", "overlaps another mask, which keeps the common pixels"),
        ("c.png", "is covered by other masks"),
        ("d.png", "the mask is empty"),
    ]


def test_samples_without_an_image_or_masks_are_left_out(bowl, tmp_path):
    sample(bowl / "stage1_train", "v", grey(20))
    (bowl / "stage1_train" / "u" / "masks").mkdir(parents=True)
    assert reasons(list_dsb2018(bowl, tmp_path / "data", n_folds=2)) == [
        ("u", "has no image of its own name"),
        ("v.png", "the training image has no masks"),
    ]


def test_masks_of_another_size_are_all_named(bowl, tmp_path):
    for name in "wxyz":
        png(bowl / "stage1_train" / name / "masks" / "b.png", SECOND[:, :4] * 255)
    (bowl / "stage1_test" / "t" / "images" / "t.png").unlink()
    message = refusal(list_dsb2018, bowl, tmp_path / "data", n_folds=2)
    assert "4 problems" in message
    assert message.count("shape (3, 4) differs from (3, 5) of the image") == 4


def test_a_sample_that_cannot_be_used_is_left_out(bowl, tmp_path):
    png(bowl / "stage1_train" / "w" / "masks" / "b.png", SECOND[:, :4] * 255)
    see_through = rgba(*[noise(1, 3, 5)] * 3)
    see_through[0, 0, 3] = 0
    png(bowl / "stage1_train" / "x" / "images" / "x.png", see_through)
    listing = list_dsb2018(bowl, tmp_path / "data", n_folds=2)
    assert sorted(places(listing).items()) == [("t", "test"), *zip("yz", places(listing).values(), strict=False)]
    assert {places(listing)[name] for name in "yz"} == {"fold 0", "fold 1"}
    assert listing.data_list.description.startswith("2 images")
    (mask, differs), (image, alpha) = reasons(listing)
    assert (mask, image) == ("b.png", "x.png")
    assert differs == "shape (3, 4) differs from (3, 5) of the image, so case 'w' is left out"
    assert alpha.endswith(", so case 'x' is left out")
    check(listing, tmp_path)


@pytest.fixture
def flat(tmp_path):
    for seed, name in enumerate("wxyz"):
        png(tmp_path / "flat" / "images" / f"{name}.png", noise(seed, 3, 5))
        png(tmp_path / "flat" / "labels" / f"{name}.png", MERGED.astype(np.uint16))
    return tmp_path / "flat"


def test_merged_masks_are_used_as_they_are(flat, tmp_path):
    png(flat / "images" / "a.png", noise(7, 3, 5))
    png(flat / "labels" / "b.png", MERGED.astype(np.uint16))
    before = stamps(tmp_path)
    listing = list_dsb2018(flat, n_folds=2)
    assert stamps(tmp_path) == before
    assert [(case.id, case.image, case.label) for case in listing.data_list.cases] == [
        (name, f"images/{name}.png", f"labels/{name}.png") for name in "wxyz"
    ]
    assert listing.dataset_dir == flat.resolve()
    assert reasons(listing) == [("a.png", "the image has no label"), ("b.png", "the label has no image")]
    check(listing, tmp_path)


def test_changed_images_go_below_data_unless_another_folder_is_named(flat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = list_dsb2018(flat, channels="rgb", n_folds=2)
    assert default.dataset_dir == tmp_path.resolve() / "data" / "dsb2018"
    assert np.array_equal(images(default)["y"], np.dstack([noise(2, 3, 5)] * 3))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    listing = list_dsb2018(flat, tmp_path / "data", channels="rgb", n_folds=2)
    assert np.array_equal(images(listing)["y"], np.dstack([noise(2, 3, 5)] * 3))
    assert (listing.dataset_dir / "labels" / "y.png").samefile(flat / "labels" / "y.png")


def test_merged_masks_go_below_data_unless_another_folder_is_named(bowl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_dsb2018(bowl, n_folds=2).dataset_dir == tmp_path.resolve() / "data" / "dsb2018"


def test_another_folder_is_refused_with_the_tree(tmp_path):
    message = refusal(list_dsb2018, tmp_path, tmp_path / "data")
    assert "has neither stage1_train nor the folders images and labels" in message
    assert "<folder>/stage1_train/<id>/images/<id>.png" in message
    (tmp_path / "stage1_train").mkdir()
    assert "has no training image that can be used" in refusal(list_dsb2018, tmp_path, tmp_path / "data")
