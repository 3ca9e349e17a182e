"""DICOM radiographs and runs of pixels become pictures and label maps; those without a pneumothorax stay."""

import numpy as np
import pytest
import SimpleITK as sitk
from layout_files import check, drawn, images, labels, noise, places, reasons, refusal, stamps

from pipeline.datalists.siim_acr import decode_runs, list_siim_acr
from pipeline.errors import InputError

SHAPE = (4, 5)
# Down the columns: skip 5, mark 2 (column 1, rows 1 and 2), skip 3 from there, mark 3 (column 2, rows 2 and 3; 3, 0).
RUNS = "5 2 3 3"
MARKED = drawn("00010", "01000", "01100", "00100")


def dicom(path, array, patient=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array[None])
    for key, value in (("0010|0020", patient), ("0008|0060", "CR")):
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def top(tmp_path):
    """Five radiographs, b and c of one patient; a and e are marked, e by two rows; f has no row."""
    folder = tmp_path / "siim"
    for seed, (name, patient) in enumerate(zip("abcdef", "122345", strict=True)):
        dicom(folder / "dicom-images-train" / f"study{seed}" / "series" / f"{name}.dcm", noise(seed, *SHAPE), patient)
    rows = [("a", RUNS), ("b", " -1"), ("c", "-1"), ("d", "-1"), ("e", "0 1"), ("e", "19 1")]
    text = "".join(f"{name}, {runs}\n" for name, runs in rows)
    (folder / "train-rle.csv").write_text("ImageId, EncodedPixels\n" + text)
    return folder


def test_runs_go_down_the_columns_and_count_from_the_end_of_the_last():
    assert np.array_equal(decode_runs(RUNS, SHAPE), MARKED == 1)
    assert np.array_equal(decode_runs("4 2 3 1", (3, 4)), drawn("0001", "0100", "0100") == 1)  # as its docstring says
    assert decode_runs("0 20", SHAPE).all()
    assert not decode_runs("", SHAPE).any()


def test_runs_are_decoded_like_a_walk_over_the_pixels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((7, 6)) > 0.6
        gaps, lengths, gap = [], [], 0
        for pixel, before in zip(mask.T.ravel(), [False, *mask.T.ravel()[:-1]], strict=True):
            if pixel and not before:
                gaps.append(gap)
                lengths.append(0)
                gap = 0
            if pixel:
                lengths[-1] += 1
            else:
                gap += 1
        text = " ".join(f"{gap} {length}" for gap, length in zip(gaps, lengths, strict=True))
        assert np.array_equal(decode_runs(text, mask.shape), mask)


@pytest.mark.parametrize("text", ["1", "1 2 3", "0 21", "19 1 0 1", "-1 3", "a b", "1.5 2", "0 99999999999999999999"])
def test_impossible_runs_are_refused(text):
    with pytest.raises(InputError, match=r"case 'x': EncodedPixels .* are no pairs of numbers within 4 x 5 pixels"):
        decode_runs(text, SHAPE, "x")


def test_radiographs_become_pictures_and_label_maps(top, tmp_path):
    listing = list_siim_acr(top, tmp_path / "data", n_folds=4)
    listed = listing.data_list
    assert [(case.id, case.image, case.label, case.group) for case in listed.cases] == [
        (name, f"images/{name}.png", f"labels/{name}.png", patient)
        for name, patient in zip("abcde", "12234", strict=True)
    ]
    assert listed.description == "5 chest radiographs, 2 with a pneumothorax, 3 without."
    assert listed.classes == ("background", "pneumothorax")
    folds = places(listing)
    assert folds["b"] == folds["c"]
    assert len(set(folds.values())) == 4
    for seed, name in enumerate("abcde"):
        assert images(listing)[name].dtype == np.uint8
        assert np.array_equal(images(listing)[name], noise(seed, *SHAPE))
    corners = drawn("10000", "00000", "00000", "00001")
    expected = {"a": MARKED, "e": corners} | dict.fromkeys("bcd", MARKED * 0)
    for name, label in labels(listing).items():
        assert np.array_equal(label, expected[name])
    assert reasons(listing) == [("f.dcm", "has no row in train-rle.csv")]
    before = stamps(tmp_path)
    assert list_siim_acr(top, tmp_path / "data", n_folds=4) == listing
    assert stamps(tmp_path) == before


def test_the_check_before_a_training_passes(top, tmp_path):
    marked = "".join(f"{name},{RUNS}\n" for name in "bcd")
    (top / "train-rle.csv").rename(top / "stage_2_train.csv")
    (top / "stage_2_train.csv").write_text(f"ImageId,EncodedPixels\na,-1\ne,{RUNS}\n{marked}")
    report = check(list_siim_acr(top, tmp_path / "data", n_folds=2), tmp_path)
    assert (report.labelled, report.with_foreground) == (5, 4)


def test_twelve_bits_become_sixteen(top, tmp_path):
    deep = noise(3, *SHAPE, dtype="u2") % 4096
    dicom(top / "dicom-images-train" / "study0" / "series" / "a.dcm", deep)
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert images(listing)["a"].dtype == np.uint16
    assert np.array_equal(images(listing)["a"], deep)
    assert listing.data_list.cases[0].group is None


@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), ("u2", 65535)])
def test_where_0_is_white_the_picture_is_inverted(top, tmp_path, dtype, white):
    film = noise(7, *SHAPE, dtype=dtype)
    file = dicom(top / "dicom-images-train" / "study0" / "series" / "a.dcm", film)
    file.write_bytes(file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert images(listing)["a"].dtype == dtype
    assert np.array_equal(images(listing)["a"], white - film.astype(int))


def test_twelve_bits_are_inverted_within_twelve_bits(top, tmp_path):
    film = noise(7, *SHAPE, dtype="u2") % 4000
    file = dicom(top / "dicom-images-train" / "study0" / "series" / "a.dcm", film)
    content = file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1")
    for tag, old, new in ((b"\x01\x01", b"\x10", b"\x0c"), (b"\x02\x01", b"\x0f", b"\x0b")):  # BitsStored, HighBit
        start = b"\x28\x00" + tag + b"\x02\x00\x00\x00"
        assert content.count(start + old) == 1
        content = content.replace(start + old, start + new)
    file.write_bytes(content)
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert np.array_equal(images(listing)["a"], 4095 - film.astype(int))


def test_what_cannot_be_used_is_left_out_and_the_rest_is_listed(top, tmp_path):
    study = top / "dicom-images-train"
    dicom(study / "study0" / "series" / "a.dcm", np.full(SHAPE, -1000, np.int16))
    (study / "study1" / "series" / "b.dcm").write_bytes(b"nothing")
    (top / "train-rle.csv").write_text(
        (top / "train-rle.csv").read_text().replace("c, -1", "c, 19 2").replace("d, -1", "d, 3 4")
    )
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert sorted(places(listing)) == ["d", "e"]
    assert set(places(listing).values()) == {"fold 0", "fold 1"}
    assert listing.data_list.description == "2 chest radiographs, 2 with a pneumothorax, 0 without."
    found = dict(reasons(listing))
    assert found["a.dcm"] == "has int16 values from -1000 to -1000, so case 'a' is left out"
    assert "cannot be read" in found["b.dcm"]
    assert "EncodedPixels '19 2' are no pairs" in found["train-rle.csv"]
    check(listing, tmp_path)


def test_damaged_files_are_all_named_if_nothing_is_left(top, tmp_path):
    for number, name in enumerate("abcde"):
        (top / "dicom-images-train" / f"study{number}" / "series" / f"{name}.dcm").write_bytes(b"nothing")
    message = refusal(list_siim_acr, top, tmp_path / "data")
    assert "5 problems" in message
    assert message.count("cannot be read") == 5


def test_rows_without_a_file_are_reported(top, tmp_path):
    with (top / "train-rle.csv").open("a") as stream:
        stream.write("g, -1\n")
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert ("train-rle.csv", "there is no file 'g.dcm'") in reasons(listing)


def test_of_two_files_of_one_name_one_is_left_out(top, tmp_path):
    dicom(top / "more" / "a.dcm", noise(9, *SHAPE))
    listing = list_siim_acr(top, tmp_path / "data", n_folds=2)
    assert ("a.dcm", "another file has the same name") in reasons(listing)
    assert np.array_equal(images(listing)["a"], noise(0, *SHAPE))


def test_a_damaged_table_is_refused(top, tmp_path):
    table = top / "train-rle.csv"
    table.write_text(table.read_text() + "g\n")
    assert "line 8 has 1 columns" in refusal(list_siim_acr, top, tmp_path / "data")
    table.write_text("ImageId, Class\n")
    assert "other columns than ImageId, EncodedPixels" in refusal(list_siim_acr, top, tmp_path / "data")


def test_another_folder_is_refused_with_the_tree(top, tmp_path):
    message = refusal(list_siim_acr, tmp_path, tmp_path / "data")
    assert "has no train-rle.csv or stage_2_train.csv" in message
    assert "<folder>/train-rle.csv" in message
    (top / "train-rle.csv").write_text("ImageId, EncodedPixels\ng, -1\n")
    assert "has no .dcm file that the table names" in refusal(list_siim_acr, top, tmp_path / "data")
    (top / "dicom-images-train").rename(tmp_path / "elsewhere")
    assert "has no .dcm file. " in refusal(list_siim_acr, top, tmp_path / "data")


def test_pictures_go_below_data_unless_another_folder_is_named(top, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_siim_acr(top, n_folds=2).dataset_dir == tmp_path.resolve() / "data" / "siim_acr"
