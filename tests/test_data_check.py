"""The verb `check`: what it prints, writes and tracks, and whether it calls a list sound."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from mlflow.tracking import MlflowClient
from servers import absent

from pipeline.data_check import check_data_list
from pipeline.datalists.datalist import Case, DataList, load_data_list, save_data_list
from pipeline.datalists.embedded import make_data_list
from pipeline.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(discs, tmp_path):
    """A copy of the data that a test may spoil."""
    return shutil.copytree(discs, tmp_path / "data")


def test_a_sound_list(discs, capsys):
    assert check_data_list(discs / "discs.json", discs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"data list 'discs' in '{discs}'",
        "8 cases (3 training, 3 validation, 2 test)",
        "8 with a label, 8 of these with foreground",
    ]
    table = {line[:30].strip(): line[30:].split() for line in lines[4:9]}
    assert table[""] == ["smallest", "median", "largest"]
    assert table["Size (pixels): rows"] == ["48", "48", "48"]
    assert len({len(line) for line in lines[4:9]}) == 1  # columns stand below each other
    assert lines[-3:] == ["no problems", "", "no warnings"]
    check_data_list(discs / "discs.json", discs)
    assert "8 cases (3 training, 3 validation, 2 test); 8 are as they were when last checked" in capsys.readouterr().out
    check_data_list(discs / "discs.json", discs, use_cache=False, fold=1)
    assert "last checked" not in capsys.readouterr().out


def test_all_problems_and_warnings_are_printed(folder, capsys):
    (folder / "images/disc_0.tif").unlink()
    tifffile.imwrite(folder / "labels/disc_1.tif", np.zeros((9, 9), np.uint8))
    tifffile.imwrite(folder / "images/disc_2.tif", np.full((48, 48), 3, np.uint8))
    assert not check_data_list(folder / "discs.json", folder, html=folder / "page.html")
    out = capsys.readouterr().out
    assert "\n2 problems\n  1. case 'disc_0', file " in out
    assert "\n  2. case 'disc_1', file " in out
    assert "\n1 warning\n  1. case 'disc_2', file " in out
    assert out.count("Remedy: ") == 3
    assert out.endswith(f"wrote {folder / 'page.html'}\n")
    assert "every value of the image is 3" in (folder / "page.html").read_text()


def test_mistakes_in_the_list_and_in_the_files_come_together(folder, capsys):
    document = json.loads((folder / "discs.json").read_text())
    document["cases"][0]["colour"] = "red"
    (folder / "discs.json").write_text(json.dumps(document))
    (folder / "images/disc_1.tif").unlink()
    assert not check_data_list(folder / "discs.json", folder, html=folder / "page.html")
    out = capsys.readouterr().out
    assert "\n8 cases " in out
    assert f"\n2 problems\n  1. case 'disc_0', file '{folder / 'discs.json'}': $.cases[0]: " in out
    assert "\n  2. case 'disc_1', file " in out
    assert "colour" in (folder / "page.html").read_text()


def test_a_networks_spacing_tells_a_wrong_unit_of_a_whole_list(tmp_path, capsys):
    """Metres taken for millimetres: 0.001 mm is none of a scanner, but may be microscopy; 1 mm it is not."""
    affine, voxels = np.diag([0.001, 0.001, 0.003, 1]), np.random.default_rng(0).integers(0, 99, (8, 4, 5, 6), np.uint8)
    for number, name in enumerate("abcd"):
        nib.save(nib.Nifti1Image(voxels[number], affine), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels[number + 4] % 2, affine), tmp_path / f"{name}_label.nii.gz")
    cases = tuple(
        Case(name, f"{name}.nii.gz", f"{name}_label.nii.gz", fold=number % 2) for number, name in enumerate("abcd")
    )
    words = {"description": "", "licence": "x", "source": "x", "made_by": "x", "label_kind": "classes"}
    solid = DataList("toy", spatial_dims=3, classes=("background", "a"), channels=("CT",), cases=cases, **words)
    save_data_list(solid, tmp_path / "toy.json")
    assert check_data_list(tmp_path / "toy.json", tmp_path)
    out = capsys.readouterr().out
    assert "no problems" in out
    assert "(4 volumes are like that). Remedy: correct the unit" in out
    assert not check_data_list(tmp_path / "toy.json", tmp_path, spacing=[1, 1, 3])
    assert "1 problem\n  1. case 'a'" in capsys.readouterr().out
    assert check_data_list(tmp_path / "toy.json", tmp_path, spacing=[0.001, 0.001, 0.003])


def test_images_have_no_spacing(discs):
    with pytest.raises(InputError, match="2D images"):
        check_data_list(discs / "discs.json", discs, spacing=[1, 1, 3])


def test_a_list_of_which_nothing_can_be_read(folder, capsys):
    shutil.rmtree(folder / "images")
    assert not check_data_list(folder / "discs.json", folder)
    assert "no case could be read" in capsys.readouterr().out


def test_the_folder_is_found_by_the_lists_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"file 'data/discs': is no folder.*--dataset_dir"):
        check_data_list(folder / "discs.json")
    folder.rename(tmp_path / "discs")
    (tmp_path / "data").mkdir()
    (tmp_path / "discs").rename(tmp_path / "data" / "discs")
    assert check_data_list("data/discs/discs.json")


def test_data_that_the_package_makes_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_data_list(make_data_list("cells"), tmp_path / "cells.json")
    assert check_data_list("cells.json")
    out = capsys.readouterr().out
    assert "no problems\n\nno warnings" in out
    assert "Objects: per case" in out


def test_a_run_in_mlflow_keeps_page_and_numbers(folder, empty_store, tmp_path):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (folder / "images/disc_0.tif").unlink()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    check_data_list(folder / "discs.json", folder, mlflow_uri=uri)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("discs").experiment_id])
    assert (run.info.run_name, run.info.status) == ("check discs", "FINISHED")
    assert run.data.metrics == {"cases": 8, "labelled": 8, "with_foreground": 8, "problems": 1, "warnings": 0}
    assert run.data.params["fold"] == "0"
    assert run.data.tags["data_list.content"] == load_data_list(folder / "discs.json").digest
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"report.html", "fingerprint.json"}
    numbers = json.loads(Path(client.download_artifacts(run.info.run_id, "fingerprint.json", tmp_path)).read_text())
    assert [case["case"] for case in numbers["fingerprints"]] == [f"disc_{number}" for number in range(1, 8)]
    assert numbers["problems"][0]["case"] == "disc_0"


def test_a_server_that_is_not_there_is_no_error(discs, caplog):
    assert check_data_list(discs / "discs.json", discs, mlflow_uri=absent())
    assert "no MLflow server answers" in caplog.text
