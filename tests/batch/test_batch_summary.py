import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.batch.summary import clashes, measure, write_summary
from pipeline.errors import InputError

NAMES = ["background", "liver", "kidney"]


def item(labels, file="scan.nii.gz", affine=None):
    meta = {"filename_or_obj": file}
    affine = torch.eye(4, dtype=torch.float64) if affine is None else torch.as_tensor(affine, dtype=torch.float64)
    return {"pred": MetaTensor(torch.as_tensor(labels)[None], affine=affine, meta=meta)}


def table(file):
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


# measure


def test_volumes_by_hand():
    labels = np.zeros((2, 3, 4), int)
    labels[0, 0] = 1  # 4 voxels of 0.5 x 2 x 2.5 = 2.5 mm3: 10 mm3 = 0.01 ml
    labels[1, 1, 1] = 2
    affine = np.array([[0, 0, 2.5, 9], [-0.5, 0, 0, 4], [0, 2, 0, 1], [0, 0, 0, 1]])  # PSR
    assert measure(item(labels, affine=affine), NAMES) == {
        "shape": [2, 3, 4],
        "spacing": [0.5, 2.0, 2.5],
        "voxels/background": 19,
        "voxels/liver": 4,
        "voxels/kidney": 1,
        "ml/liver": 0.01,
        "ml/kidney": 0.0025,
    }


def test_an_oblique_grid_has_the_same_volumes():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [3, 1, 2]
    row = measure(item(np.ones((10, 10, 10), int), affine=affine), NAMES)
    assert row["spacing"] == [3, 1, 2]
    assert row["ml/liver"] == 6
    assert row["ml/kidney"] == row["voxels/kidney"] == row["voxels/background"] == 0


def test_volumes_of_a_cells_size_do_not_become_0():
    row = measure(item(np.ones((10, 10, 10), int), affine=np.diag([0.0005, 0.0005, 0.001, 1])), NAMES)
    assert row["spacing"] == [0.0005, 0.0005, 0.001]
    assert row["ml/liver"] == pytest.approx(1000 * 2.5e-10 / 1000)


@pytest.mark.parametrize("file", ["a.png", "a.JPG", "a.jpeg", "a.bmp", "a.tif", "b/a.TIFF"])
def test_pictures_have_no_millimetres(file):
    shape = (3, 4, 5) if file.lower().endswith(("tif", "tiff")) else (3, 4)
    row = measure(item(np.ones(shape, int), file), NAMES)
    assert row == {
        "shape": list(shape),
        "voxels/background": 0,
        "voxels/liver": np.prod(shape),
        "voxels/kidney": 0,
    }


def test_a_slice_has_a_spacing_but_no_volume():
    row = measure(item(np.ones((3, 4), int), "a.dcm", np.diag([0.2, 0.1, 5, 1])), NAMES)
    assert row["spacing"] == [0.2, 0.1]
    assert not [name for name in row if name.startswith("ml/")]


def test_labels_beyond_the_names():
    labels = np.array([[[0, 1, 7]]])
    row = measure(item(labels), ["background", "tumour"])
    assert row["voxels/label 7"] == 1
    assert row["ml/label 7"] == 0.001
    assert {name for name in row if name.startswith("voxels/")} == {
        *("voxels/background", "voxels/tumour", "voxels/label 7")
    }


def test_the_files_name_may_be_in_the_images_meta_data():
    labels = MetaTensor(torch.ones(1, 2, 2, 2, dtype=torch.uint8))
    for file, has_volume in (("a.nii", True), ("a.tif", False)):
        image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": file})
        assert ("ml/liver" in measure({"pred": labels, "image": image}, NAMES)) == has_volume


def test_a_large_map_is_not_copied():
    labels = np.zeros((64, 256, 256), np.uint8)  # 4 MiB
    labels[10] = 1
    entry = item(labels)
    tracemalloc.start()
    row = measure(entry, NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["voxels/liver"] == 256 * 256
    assert peak < 2 << 20  # one plane as int64 is 0.5 MiB, the whole would be 32


# write_summary


ROWS = [
    {
        "case": "b",
        "status": "done",
        "reason": "",
        "seconds": 2.5,
        "seconds_forward": 2.0,
        "shape": [2, 3, 4],
        "spacing": [0.5, 2.0, 2.5],
        "voxels/background": 20,
        "voxels/liver": 4,
        "ml/liver": 0.01,
        "outputs": ["b.nii.gz", Path("b_prob.nii.gz")],
    },
    {"case": "a", "status": "failed", "reason": 'is "truncated", see\nbelow', "seconds": 0.5},
    {"case": "c", "status": "done", "reason": "", "voxels/label 7": 1, "ml/label 7": 0.001, "outputs": ["c.png"]},
]


def test_both_files_say_the_same_in_order_of_the_cases(tmp_path):
    write_summary(tmp_path / "new" / "summary-0-of-2", ROWS)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["summary-0-of-2.csv", "summary-0-of-2.json"]
    columns, *lines = table(tmp_path / "new" / "summary-0-of-2.csv")
    assert columns == [
        *("case", "status", "reason", "seconds", "seconds_forward", "shape", "spacing"),
        *("voxels/background", "voxels/liver", "voxels/label 7", "ml/liver", "ml/label 7", "outputs"),
    ]
    assert lines[0] == ["a", "failed", 'is "truncated", see\nbelow', "0.5", *[""] * 9]
    assert lines[1] == [
        *("b", "done", "", "2.5", "2.0", "2 x 3 x 4", "0.5 x 2.0 x 2.5"),
        *("20", "4", "", "0.01", "", "b.nii.gz; b_prob.nii.gz"),
    ]
    assert lines[2] == ["c", "done", *[""] * 7, "1", "", "0.001", "c.png"]
    told = json.loads((tmp_path / "new" / "summary-0-of-2.json").read_text())
    assert told == [ROWS[1], {**ROWS[0], "outputs": ["b.nii.gz", "b_prob.nii.gz"]}, ROWS[2]]


def test_a_name_with_dots_is_kept_whole(tmp_path):
    write_summary(tmp_path / "v1.5", [{"case": "a"}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1.5.csv", "v1.5.json"]


def test_no_case_and_none_of_a_value(tmp_path):
    write_summary(tmp_path / "s", [])
    assert (tmp_path / "s.csv").read_text() == "case,status,reason\n"
    assert json.loads((tmp_path / "s.json").read_text()) == []
    write_summary(tmp_path / "s", [{"case": "a", "status": "done", "reason": "", "seconds": None}])
    assert (tmp_path / "s.csv").read_text() == "case,status,reason,seconds\na,done,,\n"


def test_names_that_are_not_utf8(tmp_path):
    name = b"r\xf6ntgen".decode("utf-8", "surrogateescape")
    write_summary(tmp_path / "s", [{"case": name, "status": "done", "reason": ""}])
    assert b"r\xf6ntgen,done" in (tmp_path / "s.csv").read_bytes()
    assert json.loads((tmp_path / "s.json").read_text())[0]["case"] == name


def test_equal_rows_give_equal_bytes_in_any_order(tmp_path):
    write_summary(tmp_path / "one", ROWS)
    write_summary(tmp_path / "two", ROWS[::-1])
    for suffix in (".csv", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


# clashes


def test_results_that_would_share_a_name():
    cases = ["a", "a_prob", "b", "c_prob", "x/a_prob"]
    (problem,) = clashes(cases, ["", "_prob"])
    assert isinstance(problem, InputError)
    assert problem.case == "a_prob"
    assert str(problem) == (
        "case 'a_prob': its result would have the name of the _prob file of case 'a'. "
        "Remedy: rename the input, or predict it on its own"
    )
    assert clashes(cases, [""]) == clashes(cases, []) == []
    assert clashes(["a", "b", "x/a"], ["", "_prob", "_instances"]) == []


def test_two_further_results_of_one_name():
    (problem,) = clashes(["a", "a_instances"], ["_instances_prob", "_prob"])
    assert problem.case == "a"  # a + _instances_prob is a_instances + _prob
    assert "_prob file of case 'a_instances'" in problem.reason


def test_names_are_texts_in_the_table_and_themselves_in_the_json(tmp_path):
    """No spreadsheet computes them, and no terminal that shows the table obeys them."""
    name = "=HYPERLINK(1)\x1b[2J"
    row = {"case": name, "status": "done", "reason": "", "seconds": -1.5, "shape": [2, 3], "outputs": [f"{name}.png"]}
    write_summary(tmp_path / "summary", [row, {**row, "case": "-2"}])
    cells = table(tmp_path / "summary.csv")
    shown = r"'=HYPERLINK(1)\x1b[2J"
    assert cells[1:] == [["-2", *cells[1][1:]], [shown, "done", "", "-1.5", "2 x 3", f"{shown}.png"]]
    assert json.loads((tmp_path / "summary.json").read_text())[1]["case"] == name
