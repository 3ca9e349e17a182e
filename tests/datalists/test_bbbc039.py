"""Areas of one value become numbered nuclei, metadata the splits, and wells the groups of folds."""

import numpy as np
import pytest
from layout_files import check, drawn, images, labels, noise, places, png, reasons, refusal, stamps, tif

from pipeline.datalists.bbbc039 import list_bbbc039

# Two touching nuclei of the values 1 and 2, and a third of the value 1 elsewhere, which meets itself at a corner.
CODED = drawn("112200", "112200", "000001", "000010")
NUMBERED = drawn("112200", "112200", "000003", "000030")
NAMES = [f"IXMtest_{well}_s{field}_w1ABC" for well in ("A02", "B11", "P24") for field in (1, 2)]
SPLITS = ["training", "validation", "training", "validation", "training", "test"]


@pytest.fixture
def top(tmp_path):
    folder = tmp_path / "BBBC039"
    lists = {split: "" for split in ("training", "validation", "test")}
    for seed, (name, split) in enumerate(zip(NAMES, SPLITS, strict=True)):
        tif(folder / "images" / f"{name}.tif", noise(seed, 4, 6, dtype="u2"))
        png(folder / "masks" / f"{name}.png", np.dstack([CODED, CODED * 0, CODED * 9, np.full_like(CODED, 255)]))
        lists[split] += f"{name}.png\n"
    for split, text in lists.items():
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / "metadata" / f"{split}.txt").write_text(text)
    return folder


def test_published_splits(top, tmp_path):
    listing = list_bbbc039(top, tmp_path / "data")
    listed = listing.data_list
    assert places(listing) == dict(zip(NAMES, SPLITS, strict=True))
    assert {case.group for case in listed.cases} == {None}
    assert (listed.label_kind, listed.classes) == ("instances", ("background", "nucleus"))
    for seed, name in enumerate(NAMES):
        assert np.array_equal(labels(listing)[name], NUMBERED)
        assert labels(listing)[name].dtype == np.uint16
        assert np.array_equal(images(listing)[name], noise(seed, 4, 6, dtype="u2"))
    assert (listing.dataset_dir / "images" / f"{NAMES[0]}.tif").is_symlink()
    assert listing.left_out == []
    assert check(listing, tmp_path).with_foreground == 6
    before = stamps(tmp_path)
    assert list_bbbc039(top, tmp_path / "data") == listing
    assert stamps(tmp_path) == before


def test_folds_keep_wells_together(top, tmp_path):
    listing = list_bbbc039(top, tmp_path / "data", n_folds=3)
    assert [case.group for case in listing.data_list.cases] == ["A02", "A02", "B11", "B11", "P24", None]
    folds = [case.fold for case in listing.data_list.cases]
    assert folds[0] == folds[1]
    assert folds[2] == folds[3]
    assert {folds[0], folds[2], folds[4]} == {0, 1, 2}
    assert places(listing)[NAMES[5]] == "test"
    check(listing, tmp_path)


def test_masks_may_be_transparent_or_grey(top, tmp_path):
    png(top / "masks" / f"{NAMES[0]}.png", np.dstack([CODED] * 3 + [CODED * 100]))
    png(top / "masks" / f"{NAMES[1]}.png", CODED)
    found = labels(list_bbbc039(top, tmp_path / "data"))
    assert np.array_equal(found[NAMES[0]], NUMBERED)
    assert np.array_equal(found[NAMES[1]], NUMBERED)


def test_what_lacks_a_mask_an_image_or_a_split_is_left_out(top, tmp_path):
    (top / "masks" / f"{NAMES[0]}.png").unlink()
    (top / "images" / f"{NAMES[2]}.tif").unlink()
    tif(top / "images" / "other.tif", CODED)
    listing = list_bbbc039(top, tmp_path / "data")
    assert list(places(listing)) == [NAMES[1], *NAMES[3:]]
    assert reasons(listing) == [
        (f"{NAMES[0]}.tif", "the image has no mask"),
        (f"{NAMES[2]}.png", "the mask has no image"),
        ("other.tif", "metadata puts it into no split"),
    ]


def test_a_name_in_two_splits_is_refused(top, tmp_path):
    (top / "metadata" / "test.txt").write_text(f"{NAMES[0]}.png\n")
    message = refusal(list_bbbc039, top, tmp_path / "data")
    assert f"case '{NAMES[0]}'" in message
    assert "test.txt': is in training.txt, too" in message


def test_damaged_files_are_left_out_and_all_named_if_nothing_is_left(top, tmp_path):
    file = top / "masks" / f"{NAMES[0]}.png"
    file.write_bytes(file.read_bytes()[:60])
    (top / "images" / f"{NAMES[1]}.tif").write_bytes(b"nothing")
    listing = list_bbbc039(top, tmp_path / "data", n_folds=2)
    assert list(places(listing)) == NAMES[2:]
    assert listing.data_list.description.startswith("4 fields")
    (first, first_reason), (second, second_reason) = reasons(listing)
    assert (first, second) == (f"{NAMES[0]}.png", f"{NAMES[1]}.tif")
    for name, reason in zip(NAMES, (first_reason, second_reason), strict=False):
        assert "cannot be read" in reason
        assert reason.endswith(f", so case '{name}' is left out")
    check(listing, tmp_path)
    for name in NAMES:
        (top / "masks" / f"{name}.png").write_bytes(b"nothing")
    message = refusal(list_bbbc039, top, tmp_path / "data")
    assert "6 problems" in message
    assert message.count("cannot be read") == 6


def test_another_folder_is_refused_with_the_tree(top, tmp_path):
    (top / "metadata" / "validation.txt").unlink()
    message = refusal(list_bbbc039, top, tmp_path / "data")
    assert "has no metadata/validation.txt" in message
    assert "<folder>/images/<name>.tif" in message
    (top / "metadata" / "validation.txt").write_text("")
    (top / "images").rename(top / "pictures")
    assert "has no image with a mask and a split" in refusal(list_bbbc039, top, tmp_path / "data")


def test_maps_go_below_data_unless_another_folder_is_named(top, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listing = list_bbbc039(top)
    assert listing.dataset_dir == tmp_path.resolve() / "data" / "bbbc039"
    check(listing, tmp_path)
