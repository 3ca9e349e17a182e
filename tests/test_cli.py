"""Every verb helps with an example that works, and ends a user's mistake with one line."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from discs import ROOT

import pipeline
from pipeline.cli import _parser, main
from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import load_data_list
from pipeline.synthetic.cells import make_cells


def commands(parser, before=()):
    """All verbs of a parser and theirs, as lists of words; the first is the program without a verb."""
    found = [list(before)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                found += commands(verb, [*before, name])
    return found


COMMANDS = commands(_parser())


def test_the_verbs_are_found():
    assert ["predict"] in COMMANDS
    assert ["datalist", "folders"] in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_has_help_with_an_example_that_can_be_parsed(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    (example,) = re.findall(r"^example: python -m pipeline (.+)$", capsys.readouterr().out, re.MULTILINE)
    words = shlex.split(example)
    assert words[: len(command)] == command
    assert callable(_parser().parse_args(words).call)


WITHOUT_ARGUMENTS = (["compare"], ["leaderboard"], ["sync"], ["doctor"])  # these look at all there is


@pytest.mark.parametrize("command", [words for words in COMMANDS if words not in WITHOUT_ARGUMENTS], ids=" ".join)
def test_a_verb_without_its_arguments_shows_its_usage(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == pipeline.__version__


LOADED = """
import runpy, sys
sys.argv = ["pipeline", *sys.argv[1:]]
try:
    runpy.run_module("pipeline", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("\\nloaded:", *(name for name in ("numpy", "torch", "monai", "mlflow", "scipy") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(["--help"], set()), (["predict", "--help"], set()), (["datalist", "embedded", "cells"], {"torch", "monai"})],
    ids=["help", "predict --help", "datalist"],
)
def test_nothing_heavy_is_loaded_that_is_not_needed(arguments, heavy, tmp_path):
    output = ["-o", str(tmp_path / "list.json")] if "datalist" in arguments else []
    command = [sys.executable, "-c", LOADED, *arguments, *output]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.splitlines()[-1].removeprefix("loaded:").split())
    assert not loaded & heavy if heavy else loaded == set()


def test_a_users_mistake_is_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "pipeline", "datalist", "folders", str(tmp_path), "-o", str(tmp_path / "x.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"error: file '{tmp_path}/images': is not a folder. Remedy: give the folder's path\n"
    assert result.stdout == ""
    assert not (tmp_path / "x.json").exists()


def test_a_bug_is_no_users_mistake(monkeypatch):
    monkeypatch.setattr("pipeline.datalists.embedded.make_data_list", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["datalist", "embedded", "cells", "-o", "x.json"])


# --- datalist ---------------------------------------------------------------------------------------------------------


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


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ([], {}),
        (["--probabilities"], {"save_probabilities": True}),
        (["--instances", "--uncertainty"], {"save_instances": True, "save_uncertainty": True}),
        (["--dicom-seg", "--pictures"], {"save_dicom_seg": True, "save_pictures": True}),
        (["--dicom_seg"], {"save_dicom_seg": True}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
        (["--resume"], {"resume": True}),
        (["--track"], {"track": True}),
        (["--precision", "float32", "--backend", "onnx"], {"precision": "float32", "backend": "onnx"}),
        (["--num_shards", "4", "--shard_id", "3"], {"num_shards": 4, "shard_id": 3}),
        (["--num-shards", "4", "--shard-id", "3"], {"num_shards": 4, "shard_id": 3}),
    ],
)
def test_the_options_of_a_prediction_reach_it(monkeypatch, options, overrides):
    called = []
    monkeypatch.setattr("pipeline.inference.predict_with_bundle", lambda *args, **more: called.append((args, more)))
    main(["predict", "run", "in", "out", *options])
    defaults = {"resume": False, "num_shards": 1, "shard_id": 0, "track": False}
    assert called == [(("run", "in", "out", [], False), defaults | overrides)]


def test_overlays_and_trust_of_a_prediction_reach_it(monkeypatch):
    called = []
    monkeypatch.setattr("pipeline.inference.predict_with_bundle", lambda *args, **more: called.append(args))
    main(["predict", "run", "in", "out", "--overlay", "a.yaml", "b.yaml", "--uncertainty", "--trust"])
    assert called == [("run", "in", "out", ["a.yaml", "b.yaml"], True)]
