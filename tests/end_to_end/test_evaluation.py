"""Evaluation writes what it found per case and in the mean: as CSV, as JSON, into MLflow."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
from mlflow.tracking import MlflowClient

from pipeline.errors import InputError
from pipeline.metrics.overlap import dice


@pytest.fixture
def evaluated(run_bundle, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns(".lock"))
    files = [run / "configs" / name for name in ("train.json", "evaluate.json")]
    run_bundle("evaluating", *files, output_dir=str(tmp_path / "scores"), device="cpu", **{"mlflow#uri": None})
    return tmp_path / "scores"


def test_scores_are_those_of_the_predicted_files(evaluated, run_bundle, trained, discs, tmp_path):
    """An independent way to the same figures: predict the test images to files, and compare these with the labels."""
    options = {"input_dir": str(discs / "images"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    run_bundle("inference", trained / "configs" / "inference.json", **options)
    with (evaluated / "cases.csv").open() as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"disc_6", "disc_7"}
    for case, row in rows.items():
        truth = separated(tifffile.imread(discs / "labels" / f"{case}.tif"))
        prediction = tifffile.imread(tmp_path / "out" / f"{case}.tif")
        assert float(row["dice/cell"]) == pytest.approx(dice(truth, prediction, 2)[1], abs=1e-9)
    scores = json.loads((evaluated / "scores.json").read_text())
    assert scores["split"] == "test"
    assert scores["cases"] == 2
    mean = np.mean([float(row["mean_dice"]) for row in rows.values()])
    assert scores["scores"]["mean_dice"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert mean > 0.5, "the network has learned something, or the comparison says nothing"


def separated(instances):
    from pipeline.transforms.instances_to_mask import separate_instances

    return (separate_instances(instances, gap=1) > 0).astype(int)


def test_pictures_of_the_extremes_are_written(evaluated):
    assert {file.name for file in evaluated.iterdir()} == {
        "cases.csv",
        "scores.json",
        "slices.npz",
        "report.html",
        "worst.png",
        "best.png",
    }


def test_mlflow_has_the_evaluation_as_a_run_of_its_own(evaluated, tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("discs").experiment_id])
    assert run.info.status == "FINISHED"
    scores = json.loads((evaluated / "scores.json").read_text())["scores"]
    assert run.data.metrics["test/mean_dice"] == pytest.approx(scores["mean_dice"]["mean"], abs=1e-6)
    assert run.data.metrics["test/dice/cell"] == pytest.approx(scores["dice/cell"]["mean"], abs=1e-6)
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation/test")}
    assert {"evaluation/test/cases.csv", "evaluation/test/scores.json"} <= artifacts


def test_another_split_can_be_asked_for(run_bundle, trained, tmp_path):
    files = [trained / "configs" / name for name in ("train.json", "evaluate.json")]
    options = {"output_dir": str(tmp_path / "scores"), "device": "cpu", "mlflow#uri": None}
    run_bundle("evaluating", *files, split="validation", **options)
    best = json.loads((trained / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    again = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert again == best, "the weights that training left score what training said"


def without_labels(discs, folder, cases):
    """Copy the list of cases, and take the labels of some."""
    content = json.loads((discs / "discs.json").read_text())
    for case in content["cases"]:
        if case["id"] in cases:
            del case["label"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "discs.json").write_text(json.dumps(content))
    return str(folder / "discs.json")


def test_test_cases_without_a_label_are_left_out_and_named(run_bundle, trained, discs, tmp_path, caplog):
    files = [trained / "configs" / name for name in ("train.json", "evaluate.json")]
    options = {"output_dir": str(tmp_path / "scores"), "device": "cpu", "mlflow#uri": None}
    run_bundle("evaluating", *files, data_list=without_labels(discs, tmp_path / "new", ["disc_6"]), **options)
    assert "1 of 2 test cases have no label and are left out: disc_6" in caplog.text
    assert (tmp_path / "scores" / "cases.csv").read_text().splitlines()[1].startswith("disc_7,")
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["cases"] == 1


def test_a_test_split_without_any_label_is_an_error(run_bundle, trained, discs, tmp_path):
    files = [trained / "configs" / name for name in ("train.json", "evaluate.json")]
    options = {"output_dir": str(tmp_path / "scores"), "device": "cpu", "mlflow#uri": None}
    data_list = without_labels(discs, tmp_path / "new", ["disc_6", "disc_7"])
    with pytest.raises(InputError, match=r"2 of 2 test cases have no label .*Remedy: predict them"):
        run_bundle("evaluating", *files, data_list=data_list, **options)
    assert not (tmp_path / "scores").exists()
