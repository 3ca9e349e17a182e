"""Both years' folders become splits or folds, with 0 for skin and 1 for the lesion."""

import numpy as np
import pytest
from layout_files import check, drawn, labels, noise, places, png, reasons, refusal, stamps
from PIL import Image

from pipeline.datalists.isic import list_isic

LESION = drawn("000000", "001100", "011110", "000000")
YEARS = {
    "isic2018": ("ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth", "Test"),
    "isic2017": ("ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth", "Test_v2"),
}


def make_year(top, year):
    """Four training, two validation and two test images."""
    images, masks, test = YEARS[year]
    for part, numbers in (("Training", range(4)), ("Validation", (4, 5)), (test, (6, 7))):
        for number in numbers:
            folder = top / images.format(part)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(number, 4, 6, 3)).save(folder / f"ISIC_000000{number}.jpg", quality=90)
            png(top / masks.format(part) / f"ISIC_000000{number}_segmentation.png", LESION * 255)
    png(top / images.format("Training") / "ISIC_0000000_superpixels.png", noise(9, 4, 6, 3))
    (top / images.format("Training") / "ISIC-2017_Training_Data_metadata.csv").write_text("image_id,sex\n")
    return top


@pytest.fixture
def top(tmp_path):
    return make_year(tmp_path / "isic", "isic2018")


@pytest.mark.parametrize("year", YEARS)
def test_published_splits(year, tmp_path):
    folder = make_year(tmp_path / "isic", year)
    listing = list_isic(folder, tmp_path / "data")
    listed = listing.data_list
    assert [case.place for case in listed.cases] == ["training"] * 4 + ["validation"] * 2 + ["test"] * 2
    assert [case.image for case in listed.cases] == [f"images/ISIC_000000{number}.jpg" for number in range(8)]
    assert [case.label for case in listed.cases] == [f"labels/ISIC_000000{number}.png" for number in range(8)]
    assert (listed.name, listed.classes) == (year, ("skin", "lesion"))
    assert listed.licence == {"isic2017": "CC0-1.0", "isic2018": "CC-BY-NC-4.0"}[year]
    assert all(np.array_equal(label, LESION) for label in labels(listing).values())
    image = folder / YEARS[year][0].format("Training") / "ISIC_0000003.jpg"
    assert (listing.dataset_dir / listed.cases[3].image).samefile(image)
    assert listing.left_out == []
    assert check(listing, tmp_path).with_foreground == 8
    before = stamps(tmp_path)
    assert list_isic(folder, tmp_path / "data") == listing
    assert stamps(tmp_path) == before


def test_training_and_validation_may_be_dealt_into_folds(top, tmp_path):
    listing = list_isic(top, tmp_path / "data", n_folds=3)
    assert sorted(places(listing).values()) == [*["fold 0"] * 2, *["fold 1"] * 2, *["fold 2"] * 2, "test", "test"]
    check(listing, tmp_path)


def test_without_masks_of_the_validation_images_there_are_five_folds(top, tmp_path):
    images, masks, _ = YEARS["isic2018"]
    png(top / masks.format("Training") / "ISIC_0000009_segmentation.png", LESION * 255)
    Image.fromarray(noise(9, 4, 6, 3)).save(top / images.format("Training") / "ISIC_0000009.jpg")
    (top / masks.format("Validation")).rename(top / "hidden_1")
    (top / masks.format("Test")).rename(top / "hidden_2")
    listing = list_isic(top, tmp_path / "data")
    assert sorted(places(listing).values()) == [*(f"fold {fold}" for fold in range(5)), "test", "test"]
    assert reasons(listing) == [(f"ISIC_000000{n}.jpg", "the validation image has no mask") for n in (4, 5)]
    assert [case.label for case in listing.data_list.cases[-2:]] == [None, None]


def test_what_has_no_partner_is_left_out(top, tmp_path):
    images, masks, _ = YEARS["isic2018"]
    (top / masks.format("Training") / "ISIC_0000001_segmentation.png").unlink()
    (top / images.format("Training") / "ISIC_0000002.jpg").unlink()
    assert reasons(list_isic(top, tmp_path / "data")) == [
        ("ISIC_0000001.jpg", "the training image has no mask"),
        ("ISIC_0000002_segmentation.png", "the mask has no image"),
    ]


def smooth(top, numbers):
    """Give masks a third value."""
    for number in numbers:
        part = "Training" if number < 4 else "Validation" if number < 6 else "Test"
        file = top / YEARS["isic2018"][1].format(part) / f"ISIC_000000{number}_segmentation.png"
        png(file, LESION * 100 + drawn("200000", "000000", "000000", "000000"))


def test_a_mask_with_smooth_edges_is_left_out(top, tmp_path):
    smooth(top, [0])
    listing = list_isic(top, tmp_path / "data")
    assert [case.id for case in listing.data_list.cases] == [f"ISIC_000000{number}" for number in range(1, 8)]
    assert listing.data_list.description.startswith("7 photographs")
    reason = "is no mask, which has the value 0 and one other: it has 0, 2, 100, so case 'ISIC_0000000' is left out"
    assert reasons(listing) == [("ISIC_0000000_segmentation.png", reason)]
    check(listing, tmp_path)


def test_a_damaged_image_is_left_out(top, tmp_path):
    (top / YEARS["isic2018"][0].format("Validation") / "ISIC_0000005.jpg").write_bytes(b"nothing")
    listing = list_isic(top, tmp_path / "data", n_folds=5)
    assert sorted(places(listing).values()) == [*(f"fold {fold}" for fold in range(5)), "test", "test"]
    assert [name for name, _ in reasons(listing)] == ["ISIC_0000005.jpg"]


def test_where_no_mask_can_be_used_all_are_named(top, tmp_path):
    smooth(top, range(8))
    message = refusal(list_isic, top, tmp_path / "data")
    assert "8 problems" in message
    assert message.count("it has 0, 2, 100") == 8


def test_another_folder_is_refused_with_the_tree(top, tmp_path):
    message = refusal(list_isic, tmp_path, tmp_path / "data")
    assert "has no folder of training images" in message
    assert "<folder>/ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg" in message
    make_year(top, "isic2017")
    assert "has the training images of both years" in refusal(list_isic, top, tmp_path / "data")


def test_training_images_without_any_mask_are_refused(top, tmp_path):
    (top / YEARS["isic2018"][1].format("Training")).rename(top / "hidden")
    assert "has no training image with a mask" in refusal(list_isic, top, tmp_path / "data")


def test_maps_go_below_data_unless_another_folder_is_named(top, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_isic(top).dataset_dir == tmp_path.resolve() / "data" / "isic2018"
