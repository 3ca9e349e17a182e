"""Two folders become a list: pairing by name, channels, patients, classes, and a reason for whatever is left out."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
from layout_files import stamps
from PIL import Image

from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import load_data_list, save_data_list
from pipeline.datalists.folders import list_folders
from pipeline.errors import InputError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
MASK = (GREY > 20).astype(np.uint8)


def png(path, array=GREY):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 2, 1])), path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Folders images/ and labels/ with the cases a..e, PNG."""
    for name in "abcde":
        png(tmp_path / "images" / f"{name}.png")
        png(tmp_path / "labels" / f"{name}.png", MASK)
    return tmp_path


def listing(top, **options):
    return list_folders(top / "images", top / "labels", **options)


def reasons(result):
    return {file.name: reason for file, reason in result.left_out}


def message(top, **options):
    with pytest.raises(InputError) as caught:
        listing(top, **options)
    return str(caught.value)


def test_a_plain_data_set(folders, tmp_path):
    result = listing(folders, name="mine", n_folds=5)
    listed = result.data_list
    assert result.dataset_dir == folders.resolve()
    assert result.left_out == []
    assert [case.id for case in listed.cases] == list("abcde")
    assert [case.image for case in listed.cases] == [f"images/{name}.png" for name in "abcde"]
    assert [case.label for case in listed.cases] == [f"labels/{name}.png" for name in "abcde"]
    assert sorted(case.fold for case in listed.cases) == [0, 1, 2, 3, 4]
    assert (listed.name, listed.spatial_dims, listed.label_kind) == ("mine", 2, "classes")
    assert listed.classes == ("background", "class_1")
    assert listed.channels == ("intensity",)
    save_data_list(listed, tmp_path / "list.json")
    assert load_data_list(tmp_path / "list.json") == listed
    assert all(Path(record["image"]).is_file() for record in listed.records(result.dataset_dir, "training"))


def test_pairs_are_made_by_name_and_not_by_order(folders):
    (folders / "images" / "a.png").unlink()
    (folders / "labels" / "e.png").unlink()
    result = listing(folders, n_folds=2)
    pairs = [(case.image, case.label) for case in result.data_list.cases]
    assert pairs == [(f"images/{name}.png", f"labels/{name}.png") for name in "bcd"]
    assert reasons(result) == {"a.png": "there is no image 'a'", "e.png": "there is no label 'e'"}


@pytest.mark.parametrize("postfix", ["_seg", "_mask", "_label", "_segmentation"])
def test_a_label_may_have_a_postfix_and_another_suffix(tmp_path, postfix):
    for name in ("a", "b"):
        png(tmp_path / "images" / f"{name}.png")
        tifffile.imwrite(png(tmp_path / "labels" / "x.png").parent / f"{name}{postfix}.tif", MASK)
    (tmp_path / "labels" / "x.png").unlink()
    result = listing(tmp_path, n_folds=2)
    assert [(case.id, case.label) for case in result.data_list.cases] == [
        ("a", f"labels/a{postfix}.tif"),
        ("b", f"labels/b{postfix}.tif"),
    ]
    assert result.left_out == []


def test_an_image_whose_own_name_ends_like_a_label_pairs_with_its_equal(tmp_path):
    for name in ("a_mask", "b"):
        png(tmp_path / "images" / f"{name}.png")
        png(tmp_path / "labels" / f"{name}.png", MASK)
    assert [case.id for case in listing(tmp_path, n_folds=2).data_list.cases] == ["a_mask", "b"]


def test_images_and_labels_may_share_a_folder_or_lie_one_in_the_other(tmp_path):
    for name in ("a", "b"):
        png(tmp_path / "one" / f"{name}.png")
        png(tmp_path / "one" / f"{name}_mask.png", MASK)
        png(tmp_path / "outer" / f"{name}.png")
        png(tmp_path / "outer" / "masks" / f"{name}.png", MASK)
    shared = list_folders(tmp_path / "one", tmp_path / "one", n_folds=2)
    assert [(case.image, case.label) for case in shared.data_list.cases] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.png"),
    ]
    nested = list_folders(tmp_path / "outer", tmp_path / "outer" / "masks", n_folds=2)
    assert [(case.image, case.label) for case in nested.data_list.cases] == [
        ("a.png", "masks/a.png"),
        ("b.png", "masks/b.png"),
    ]
    assert shared.left_out == nested.left_out == []


def test_other_files_are_left_out_with_a_reason_and_hidden_ones_without(folders):
    (folders / "images" / "notes.txt").write_text("x")
    (folders / "images" / ".a.png").write_text("x")
    (folders / "labels" / ".cache").mkdir()
    png(folders / "labels" / ".cache" / "z.png")
    result = listing(folders)
    assert reasons(result) == {"notes.txt": "unknown suffix '.txt'"}


def test_voxels_of_a_metaimage_are_no_case_of_their_own(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            volume = SimpleITK.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2)
            SimpleITK.WriteImage(volume, tmp_path / folder / f"{name}.mhd")
    result = listing(tmp_path, n_folds=2)
    assert result.left_out == []
    assert result.data_list.spatial_dims == 3
    assert result.data_list.cases[0].image == "images/a.mhd"


def test_channels_in_files_of_their_own(tmp_path):
    for name in ("x", "y", "z"):
        for channel in (1, 0):
            nifti(tmp_path / "images" / f"{name}_000{channel}.nii.gz", np.ones((4, 5, 6), np.int16))
        nifti(tmp_path / "labels" / f"{name}.nii.gz", (np.arange(120).reshape(4, 5, 6) % 3).astype(np.uint8))
    (tmp_path / "images" / "z_0001.nii.gz").unlink()
    result = listing(tmp_path, n_folds=2)
    assert [(case.id, case.image) for case in result.data_list.cases] == [
        ("x", ("images/x_0000.nii.gz", "images/x_0001.nii.gz")),
        ("y", ("images/y_0000.nii.gz", "images/y_0001.nii.gz")),
    ]
    assert result.data_list.channels == ("channel_0000", "channel_0001")
    assert result.data_list.spatial_dims == 3
    assert result.data_list.classes == ("background", "class_1", "class_2")
    missing = "the case has no image 'z_0001'"
    assert reasons(result) == {"z_0000.nii.gz": missing, "z.nii.gz": missing}


def test_four_digits_at_the_end_are_no_channel_where_the_label_has_them_too(tmp_path):
    for name in ("scan_0000", "scan_0001"):
        png(tmp_path / "images" / f"{name}.png")
        png(tmp_path / "labels" / f"{name}_mask.png", MASK)
    assert [case.id for case in listing(tmp_path, n_folds=2).data_list.cases] == ["scan_0000", "scan_0001"]


def test_equal_ids_are_refused(folders):
    png(folders / "images" / "more" / "a.png")
    tifffile.imwrite(folders / "images" / "b.tif", GREY)
    text = message(folders)
    assert "2 problems" in text
    assert "case 'a'" in text
    assert "case 'b'" in text


def test_two_labels_for_one_case_are_refused(folders):
    png(folders / "labels" / "a_mask.png", MASK)
    assert "is a label of this case, too" in message(folders)


def test_patients_stay_together(tmp_path):
    for patient in range(4):
        for scan in range(3):
            png(tmp_path / "images" / f"ward{patient % 2}" / f"p{patient}_s{scan}.png")
            png(tmp_path / "labels" / f"p{patient}_s{scan}.png", MASK)
    listed = listing(tmp_path, group_pattern=r"(p\d+)_", n_folds=4).data_list
    assert [case.group for case in listed.cases] == [f"p{patient}" for patient in range(4) for _ in range(3)]
    assert len({(case.group, case.fold) for case in listed.cases}) == 4
    wards = listing(tmp_path, group_pattern=r"(ward\d)/p", n_folds=2).data_list
    assert {case.group for case in wards.cases} == {"ward0", "ward1"}
    assert len({(case.group, case.fold) for case in wards.cases}) == 2
    assert "4 groups" in message(tmp_path, group_pattern=r"(p\d+)_", n_folds=5)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(z+)", "finds nothing in 'a'"),
        ("(z*)", "finds nothing in 'a'"),
        ("(a", "is no regular expression"),
        ("a", "has no group"),
    ],
)
def test_a_pattern_that_names_no_patient_is_refused(folders, pattern, expected):
    assert expected in message(folders, group_pattern=pattern)


def test_classes_are_the_values_of_all_labels(folders):
    png(folders / "labels" / "a.png", MASK * 2)
    assert listing(folders).data_list.classes == ("background", "class_1", "class_2")
    named = listing(folders, classes=["background", "nucleus", "wall"]).data_list
    assert named.classes == ("background", "nucleus", "wall")


def test_values_that_are_no_class_numbers_are_refused(folders):
    png(folders / "labels" / "a.png", MASK * 255)
    assert "the 3 label values [0, 1, 255] are not" in message(folders)
    for name in "abcde":
        png(folders / "labels" / f"{name}.png", GREY)
    assert "the 48 label values [0, 1, 2, 3, 4, 5, 6, 7, ...] are not" in message(folders)
    assert listing(folders, label_kind="instances").data_list.classes == ("background", "object")
    for name in "abcde":
        png(folders / "labels" / f"{name}.png", MASK * 0)
    assert "every label is empty" in message(folders)


@pytest.mark.parametrize("classes", [None, ["background", "cell"]])
def test_masks_of_0_and_255_become_0_and_1(folders, tmp_path, monkeypatch, classes):
    for name in "abcd":
        png(folders / "labels" / f"{name}.png", MASK * 255)
    png(folders / "labels" / "e.png", MASK * 0)
    monkeypatch.chdir(tmp_path)
    before = stamps(folders)
    result = listing(folders, name="mine", classes=classes)
    root = folders.resolve() / "data" / "mine"
    assert result.dataset_dir == root
    assert result.note == f"the labels hold 0 and 255: converted to 0 and 1 in {root}"
    assert result.data_list.classes == tuple(classes or ("background", "class_1"))
    assert [case.label for case in result.data_list.cases] == [f"labels/{name}.png" for name in "abcde"]
    for name in "abcde":
        assert np.array_equal(np.asarray(Image.open(root / "labels" / f"{name}.png")), MASK * (name != "e"))
        assert (root / "images" / f"{name}.png").samefile(folders / "images" / f"{name}.png")
    assert {file: stamp for file, stamp in stamps(folders).items() if root not in file.parents} == before
    assert listing(folders, name="mine", classes=classes) == result


def test_nothing_is_converted_that_need_not_be(folders, tmp_path):
    linked = listing(folders, dataset_dir=tmp_path / "elsewhere")
    assert linked.data_list == listing(folders).data_list
    assert linked.note == ""
    for name in "abcde":
        assert (tmp_path / "elsewhere" / "labels" / f"{name}.png").samefile(folders / "labels" / f"{name}.png")
        png(folders / "labels" / f"{name}.png", MASK * 255)
    numbered = listing(folders, label_kind="instances")
    assert (numbered.note, numbered.dataset_dir) == ("", folders.resolve())


def test_named_classes_that_contradict_the_labels_are_refused(folders):
    png(folders / "labels" / "c.png", MASK * 255)
    text = message(folders, classes=["background", "cell"])
    assert "case 'c'" in text
    assert "label values 255 are not among the classes 0..1 (background, cell)" in text


def test_masks_are_not_written_over_the_users_own(folders):
    for name in "abcde":
        png(folders / "labels" / f"{name}.png", MASK * 255)
    before = stamps(folders)
    assert "choose another --dataset_dir" in message(folders, dataset_dir=folders)
    assert stamps(folders) == before


def test_voxels_of_a_metaimage_come_along(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for width, name in enumerate(("a", "b"), 1):
            volume = SimpleITK.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) // width % 2)
            SimpleITK.WriteImage(volume, tmp_path / folder / f"{name}.mhd")
    result = listing(tmp_path, n_folds=2, dataset_dir=tmp_path / "data")
    assert check_cases(result.data_list, result.dataset_dir).labelled == 2


def test_damaged_labels_are_left_out_and_all_named_if_nothing_is_left(folders):
    for name in "ab":
        (folders / "labels" / f"{name}.png").write_bytes(b"no image")
    result = listing(folders)
    assert [case.id for case in result.data_list.cases] == ["c", "d", "e"]
    assert {case.fold for case in result.data_list.cases} == {0, 1, 2}
    assert reasons(result).keys() == {"a.png", "b.png"}
    for name in "cde":
        (folders / "labels" / f"{name}.png").write_bytes(b"no image")
    text = message(folders)
    assert "5 problems" in text
    assert "case 'a'" in text
    assert "case 'e'" in text


@pytest.mark.parametrize(
    ("array", "suffix", "dims", "channels"),
    [
        (GREY, "png", 2, ("intensity",)),
        (np.stack([GREY] * 3, -1), "png", 2, ("red", "green", "blue")),
        (GREY, "tif", 2, ("intensity",)),
        (np.stack([GREY] * 5), "tif", 3, ("intensity",)),
        (np.ones((4, 5, 6), np.int16), "nii.gz", 3, ("intensity",)),
        (np.ones((4, 5, 1), np.int16), "nii.gz", 2, ("intensity",)),
        (np.ones((4, 5, 6, 2), np.int16), "nii.gz", 3, ("channel_0", "channel_1")),
    ],
)
def test_dimensions_and_channels_are_those_of_the_first_image(tmp_path, array, suffix, dims, channels):
    write = {"png": png, "nii.gz": nifti, "tif": lambda path, values: tifffile.imwrite(path, values)}[suffix]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            write(tmp_path / folder / f"{name}.{suffix}", array)
    listed = listing(tmp_path, n_folds=2, label_kind="instances").data_list
    assert listed.spatial_dims == dims
    assert listed.channels == channels


def test_nothing_to_list_is_refused(tmp_path):
    assert "is not a folder" in message(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    assert "the folders are empty" in message(tmp_path)
    png(tmp_path / "images" / "a.png")
    png(tmp_path / "labels" / "b.png")
    assert "a.png: there is no label 'a'" in message(tmp_path)
