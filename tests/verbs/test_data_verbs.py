"""What is asked for on the command line reaches the lists."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from discs import ROOT

from pipeline.cli import main
from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import load_data_list
from pipeline.synthetic.cells import make_cells


@pytest.fixture
def folder(tmp_path):
    """Six cases of three patients in images/ and labels/, and an image without a label."""
    for kind in ("images", "labels"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for number in range(6):
        name = f"patient{number // 2}_{number}"
        tifffile.imwrite(tmp_path / "mine" / "images" / f"{name}.tif", image)
        tifffile.imwrite(tmp_path / "mine" / "labels" / f"{name}_mask.tif", (image > 20).astype(np.uint8))
    tifffile.imwrite(tmp_path / "mine" / "images" / "lonely.tif", image)
    return tmp_path / "mine"


def test_a_list_of_two_folders(folder, tmp_path, capsys):
    file = tmp_path / "lists" / "mine.json"
    main(["datalist", "folders", str(folder), "-o", str(file), "--folds", "2"])
    listed = load_data_list(file)
    assert listed.name == "mine"
    assert [case.id for case in listed.cases] == [f"patient{number // 2}_{number}" for number in range(6)]
    assert listed.label_kind == "classes"
    assert {case.fold for case in listed.cases} == {0, 1}
    assert len(listed.classes) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"6 cases in 2 folds, classes: {', '.join(listed.classes)}"
    assert lines[1] == f"left out: {folder}/images/lonely.tif: there is no label 'lonely'"
    assert lines[2] == f"wrote {file}; train with --data_list {file} --dataset_dir {folder}"
    assert len(lines) == 3


def test_masks_are_converted_and_it_is_said(folder, tmp_path, capsys, monkeypatch):
    for number, label in enumerate((folder / "labels").iterdir()):
        tifffile.imwrite(label, tifffile.imread(label) * np.uint8(255))
        image = folder / "images" / label.name.replace("_mask", "")
        tifffile.imwrite(image, tifffile.imread(image) + np.uint8(number))  # no two alike
    monkeypatch.chdir(tmp_path)
    names = ["--folds", "2", "--classes", "background", "cell"]
    for options, place in (([], "data/mine"), (["--dataset_dir", "mine_too"], "mine_too")):
        main(["datalist", "folders", "mine", "-o", "mine.json", *names, *options])
        root = tmp_path.resolve() / place
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "6 cases in 2 folds, classes: background, cell"
        assert lines[1] == f"the labels hold 0 and 255: converted to 0 and 1 in {root}"
        assert lines[-1] == f"wrote mine.json; train with --data_list mine.json --dataset_dir {root}"
        assert check_cases(load_data_list("mine.json"), root).with_foreground == 6


def test_the_options_of_a_list_reach_it(folder, tmp_path):
    for kind in ("images", "labels"):
        (folder / kind).rename(folder / f"my {kind}")
    options = "--label-kind instances --classes background cell --folds 3 --seed 7 --group ^(patient.)"
    folders = ["--images", "my images", "--labels", "my labels"]
    main(["datalist", "folders", str(folder), "-o", str(tmp_path / "a.json"), *folders, *options.split()])
    listed = load_data_list(tmp_path / "a.json")
    assert listed.label_kind == "instances"
    assert listed.classes == ("background", "cell")
    groups = {}
    for case in listed.cases:
        groups.setdefault(case.group, set()).add(case.fold)
    assert set(groups) == {"patient0", "patient1", "patient2"}
    assert sorted(map(tuple, groups.values())) == [(0,), (1,), (2,)], "a patient is never divided between folds"


def test_the_seed_deals_the_folds(folder, tmp_path):
    dealt = set()
    for seed in range(5):
        main(["datalist", "folders", str(folder), "-o", str(tmp_path / "a.json"), "--folds", "2", "--seed", str(seed)])
        dealt.add(tuple(case.fold for case in load_data_list(tmp_path / "a.json").cases))
    assert len(dealt) > 1


@pytest.mark.parametrize("name", ["cells", "organs"])
def test_an_embedded_list_is_the_one_that_comes_with_the_code(name, tmp_path, capsys):
    main(["datalist", "embedded", name, "-o", str(tmp_path / "new.json")])
    assert (tmp_path / "new.json").read_bytes() == (ROOT / "data_lists" / f"{name}.json").read_bytes()
    assert capsys.readouterr().out == f"wrote {tmp_path}/new.json\n"


# --- make-data --------------------------------------------------------------------------------------------------------


def test_images_of_an_embedded_list_are_made(tmp_path):
    content = json.loads((ROOT / "data_lists" / "cells.json").read_text())
    content["cases"] = content["cases"][3:4]
    (tmp_path / "one.json").write_text(json.dumps(content))
    main(["make-data", str(tmp_path / "one.json"), str(tmp_path / "data")])
    (case,) = content["cases"]
    written = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert {str(file.relative_to(tmp_path / "data")) for file in written} == {case["image"], case["label"]}
    image, instances = make_cells([2015, 3], slide=[2015, 1, 1])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "data" / case["image"]), image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "data" / case["label"]), instances)


def test_a_list_that_is_not_there_is_a_users_mistake(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: file '.*nowhere\.json'.*Remedy: "):
        main(["make-data", str(tmp_path / "nowhere.json"), str(tmp_path / "data")])
    assert not Path(tmp_path / "data").exists()
