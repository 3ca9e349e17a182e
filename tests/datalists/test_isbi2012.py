"""Stacks and numbered pictures become slices in blocks, with 0 for membranes and 1 for cells."""

import numpy as np
import pytest
from layout_files import check, images, labels, noise, places, png, reasons, refusal, stamps, tif

from pipeline.datalists.isbi2012 import list_isbi2012

VOLUME = noise(1, 7, 8, 9)
CELLS = (noise(2, 7, 8, 9) > 60).astype(np.uint8)
BLOCKS = [0, 0, 0, 1, 1, 2, 2]  # page * 3 // 7


@pytest.fixture
def stacks(tmp_path):
    tif(tmp_path / "isbi" / "train-volume.tif", VOLUME)
    tif(tmp_path / "isbi" / "train-labels.tif", CELLS * 255)
    tif(tmp_path / "isbi" / "test-volume.tif", noise(3, 4, 8, 9))
    return tmp_path / "isbi"


@pytest.fixture
def pictures(tmp_path):
    for page in range(7):
        png(tmp_path / "isbi" / "images" / f"slice_{page + 5}.png", VOLUME[page])  # 10 comes after 9, not after 1
        png(tmp_path / "isbi" / "labels" / f"{page + 5:03d}.png", CELLS[page] * 255)
    return tmp_path / "isbi"


def test_stacks_become_slices(stacks, tmp_path):
    listing = list_isbi2012(stacks, tmp_path / "data", n_folds=3)
    listed = listing.data_list
    names = [f"train_{page:02d}" for page in range(7)] + [f"test_{page:02d}" for page in range(4)]
    assert [case.id for case in listed.cases] == names
    assert [case.fold for case in listed.cases] == BLOCKS + [None] * 4
    assert [case.group for case in listed.cases] == [f"block_{block}" for block in BLOCKS] + [None] * 4
    assert [case.split for case in listed.cases[7:]] == ["test"] * 4
    assert [case.label for case in listed.cases[7:]] == [None] * 4
    assert (listed.spatial_dims, listed.label_kind, listed.classes) == (2, "classes", ("membrane", "cell"))
    for page in range(7):
        assert np.array_equal(images(listing)[f"train_{page:02d}"], VOLUME[page])
        assert np.array_equal(labels(listing)[f"train_{page:02d}"], CELLS[page])
    assert np.array_equal(images(listing)["test_03"], noise(3, 4, 8, 9)[3])
    assert listing.left_out == []
    assert listing.dataset_dir == tmp_path.resolve() / "data"
    assert check(listing, tmp_path).labelled == 7


def test_labels_of_the_test_stack_are_used_where_they_are_and_the_stack_may_be_missing(stacks, tmp_path):
    tif(stacks / "test-labels.tif", CELLS[:4] * 255)
    listing = list_isbi2012(stacks, tmp_path / "a")
    assert np.array_equal(labels(listing)["test_02"], CELLS[2])
    (stacks / "test-volume.tif").unlink()
    assert len(list_isbi2012(stacks, tmp_path / "b").data_list.cases) == 7


def test_pictures_keep_the_order_of_their_numbers(pictures, tmp_path):
    listing = list_isbi2012(pictures, tmp_path / "data", n_folds=3)
    assert places(listing) == {f"slice_{page + 5}": f"fold {block}" for page, block in enumerate(BLOCKS)}
    assert np.array_equal(labels(listing)["slice_11"], CELLS[6])
    assert all((listing.dataset_dir / case.image).is_symlink() for case in listing.data_list.cases)
    assert check(listing, tmp_path).cases == 7


def test_a_second_time_nothing_is_written(stacks, tmp_path):
    first = list_isbi2012(stacks, tmp_path / "data")
    before = stamps(tmp_path)
    assert list_isbi2012(stacks, tmp_path / "data") == first
    assert stamps(tmp_path) == before


def test_slices_without_a_partner_or_a_number_are_left_out(pictures, tmp_path):
    (pictures / "labels" / "005.png").unlink()
    (pictures / "images" / "slice_11.png").unlink()
    png(pictures / "images" / "mean.png", VOLUME[0])
    (pictures / "images" / "notes_1.txt").write_text("x")
    (pictures / "images" / "._slice_6.png").write_text("x")
    listing = list_isbi2012(pictures, tmp_path / "data")
    assert list(places(listing)) == [f"slice_{number}" for number in range(6, 11)]
    no_picture = "is no picture with a number in its name"
    assert reasons(listing) == [
        ("011.png", "the label has no image"),
        ("mean.png", no_picture),
        ("notes_1.txt", no_picture),
        ("slice_5.png", "the slice has no label"),
    ]


def test_equal_numbers_are_refused(pictures, tmp_path):
    png(pictures / "images" / "slice_05.png", VOLUME[0])
    assert "has the same number as 'slice_05.png'" in refusal(list_isbi2012, pictures, tmp_path / "data")


@pytest.mark.parametrize("n_folds", [0, 1, 8])
def test_blocks_that_cannot_be_are_refused(stacks, tmp_path, n_folds):
    message = refusal(list_isbi2012, stacks, tmp_path / "data", n_folds=n_folds)
    assert f"7 slices with labels make no {n_folds} blocks" in message
    assert "from 2 to 7 folds" in message


def test_labels_of_other_values_or_of_another_size_are_refused(stacks, tmp_path):
    tif(stacks / "train-labels.tif", CELLS[:6] * 255)
    assert "shape (6, 8, 9) differs from (7, 8, 9)" in refusal(list_isbi2012, stacks, tmp_path / "data")
    tif(stacks / "train-labels.tif", VOLUME)
    assert "is no mask" in refusal(list_isbi2012, stacks, tmp_path / "data")


def test_another_folder_is_refused_with_the_tree(tmp_path):
    message = refusal(list_isbi2012, tmp_path, tmp_path / "data")
    assert "has neither train-volume.tif and train-labels.tif nor the folders images and labels" in message
    assert "<folder>/train-volume.tif   pages of 8 bit\n         train-labels.tif" in message
    assert not (tmp_path / "data").exists()


def test_slices_go_below_data_unless_another_folder_is_named(stacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_isbi2012(stacks).dataset_dir == tmp_path.resolve() / "data" / "isbi2012"


def test_a_download_in_the_default_place_is_not_written_into(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    pictures.rename(tmp_path / "data" / "isbi2012")
    before = stamps(tmp_path / "data" / "isbi2012")
    listing = list_isbi2012("data/isbi2012")
    assert listing.dataset_dir == tmp_path.resolve() / "data" / "isbi2012_converted"
    assert stamps(tmp_path / "data" / "isbi2012") == before
    check(listing, tmp_path)


def test_a_slice_that_cannot_be_used_is_left_out(pictures, tmp_path):
    png(pictures / "labels" / "007.png", VOLUME[0])
    (pictures / "images" / "slice_9.png").write_bytes(b"nothing")
    listing = list_isbi2012(pictures, tmp_path / "data", n_folds=5)
    assert places(listing) == {f"slice_{n}": f"fold {fold}" for fold, n in enumerate((5, 6, 8, 10, 11))}
    assert [name for name, _ in reasons(listing)] == ["007.png", "slice_9.png"]
    assert all(
        f", so case '{name}' is left out" in reason
        for name, (_, reason) in zip(("slice_7", "slice_9"), reasons(listing), strict=True)
    )
