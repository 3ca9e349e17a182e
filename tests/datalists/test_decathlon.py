"""A task's dataset.json becomes a list of the volumes as they are."""

import json

import numpy as np
import pytest
from layout_files import check, nifti, noise, places, reasons, refusal, stamps

from pipeline.datalists.decathlon import list_decathlon

LABEL = (noise(9, 4, 5, 6) % 3).astype(np.uint8)


def describe_task(folder, **changes):
    task = {
        "name": "Toy",
        "description": "Left and right toy segmentation",
        "reference": "a test",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "2": "right", "1": "left"},
        "numTraining": 4,
        "numTest": 2,
        "training": [{"image": f"./imagesTr/toy_{n}.nii.gz", "label": f"./labelsTr/toy_{n}.nii.gz"} for n in range(4)],
        "test": ["./imagesTs/toy_8.nii.gz", "./imagesTs/toy_9.nii.gz"],
    } | changes
    (folder / "dataset.json").write_text(json.dumps({key: value for key, value in task.items() if value is not None}))


@pytest.fixture
def top(tmp_path):
    folder = tmp_path / "Task11_Toy"
    for number in range(4):
        nifti(folder / "imagesTr" / f"toy_{number}.nii.gz", noise(number, 4, 5, 6, 2, dtype="i2"))
        nifti(folder / "labelsTr" / f"toy_{number}.nii.gz", LABEL)
        (folder / "imagesTr" / f"._toy_{number}.nii.gz").write_bytes(b"attributes")
    for number in (8, 9):
        nifti(folder / "imagesTs" / f"toy_{number}.nii.gz", noise(number, 4, 5, 6, 2, dtype="i2"))
    describe_task(folder)
    return folder


def test_a_task_is_listed_as_it_is(top, tmp_path):
    before = stamps(tmp_path)
    listing = list_decathlon(top, n_folds=2)
    assert stamps(tmp_path) == before
    listed = listing.data_list
    assert [(case.id, case.image, case.label) for case in listed.cases] == [
        *((f"toy_{n}", f"imagesTr/toy_{n}.nii.gz", f"labelsTr/toy_{n}.nii.gz") for n in range(4)),
        *((f"toy_{n}", f"imagesTs/toy_{n}.nii.gz", None) for n in (8, 9)),
    ]
    assert sorted(places(listing).values()) == ["fold 0", "fold 0", "fold 1", "fold 1", "test", "test"]
    assert listed.classes == ("background", "left", "right")
    assert listed.channels == ("FLAIR", "T1w")
    assert (listed.name, listed.licence, listed.spatial_dims) == ("Toy", "CC-BY-SA 4.0", 3)
    assert listed.description == "Left and right toy segmentation."
    assert listing.dataset_dir == top.resolve()
    assert listing.left_out == []
    assert check(listing, tmp_path).labelled == 4


def test_what_dataset_json_leaves_open_is_filled_in(top):
    describe_task(top, name=None, description="", licence=None, test=None)
    listed = list_decathlon(top, n_folds=2).data_list
    assert (listed.name, listed.description, listed.licence) == ("Task11_Toy", "4 volumes.", "CC-BY-SA-4.0")


def test_files_without_an_entry_and_entries_without_a_file_are_reported(top):
    (top / "labelsTr" / "toy_0.nii.gz").unlink()
    (top / "imagesTs" / "toy_9.nii.gz").unlink()
    nifti(top / "imagesTr" / "toy_7.nii.gz", LABEL)
    listing = list_decathlon(top, n_folds=3)
    assert list(places(listing)) == ["toy_1", "toy_2", "toy_3", "toy_8"]
    gone = "dataset.json names it, but it is not there"
    assert reasons(listing) == [
        ("toy_0.nii.gz", gone),
        ("toy_7.nii.gz", "dataset.json does not name it"),
        ("toy_9.nii.gz", gone),
    ]


def test_volumes_are_linked_into_another_folder(top, tmp_path):
    listing = list_decathlon(top, tmp_path / "data", n_folds=2)
    assert listing.data_list == list_decathlon(top, n_folds=2).data_list
    assert (tmp_path / "data" / "labelsTr" / "toy_0.nii.gz").samefile(top / "labelsTr" / "toy_0.nii.gz")


def test_a_damaged_volume_leaves_its_case_out(top):
    (top / "labelsTr" / "toy_1.nii.gz").write_bytes(b"nothing")
    listing = list_decathlon(top, n_folds=3)
    assert "toy_1" not in places(listing)
    assert len(places(listing)) == len(list(top.glob("images*/toy_*"))) - 1
    ((name, reason),) = reasons(listing)
    assert name == "toy_1.nii.gz"
    assert reason.endswith(", so case 'toy_1' is left out")


def test_labels_with_gaps_are_refused(top):
    describe_task(top, labels={"0": "background", "2": "right"})
    assert "labels has the numbers 0, 2, not 0 to 1" in refusal(list_decathlon, top)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"labels": None}, "labels"),
        ({"modality": ["CT"]}, "modality"),
        ({"training": None}, "training"),
        ({"training": ["./imagesTr/toy_0.nii.gz"]}, "training"),
    ],
)
def test_an_incomplete_description_is_refused_with_the_tree(top, changes, key):
    describe_task(top, **changes)
    message = refusal(list_decathlon, top)
    assert f"dataset.json lacks or misuses {key}" in message
    assert "<folder>/dataset.json" in message


def test_another_folder_is_refused(top, tmp_path):
    message = refusal(list_decathlon, tmp_path)
    assert "has no dataset.json (without one, the layout 'folders' pairs images and labels by name)" in message
    assert "labelsTr/hippocampus_001.nii.gz" in message
    (top / "dataset.json").write_text("{")
    assert "is no JSON" in refusal(list_decathlon, top)
    describe_task(top, training=[])
    assert "has no file that the training list of dataset.json names" in refusal(list_decathlon, top)
