"""Evaluation with every measure, against the same measures of the files that inference writes."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
from discs import UNET
from mlflow.tracking import MlflowClient

from pipeline.metrics.instance_scores import average_precision, panoptic_quality
from pipeline.metrics.overlap import accuracy
from pipeline.metrics.pixel_error import pixel_error
from pipeline.metrics.rand_error import rand_error
from pipeline.metrics.seg import seg_score
from pipeline.metrics.surface import hd95
from pipeline.metrics.vinfo import vinfo
from pipeline.metrics.vrand import vrand
from pipeline.metrics.warping_error import warping_error
from pipeline.transforms.instances_to_mask import separate_instances

OF_STACK = {
    "pixel_error": pixel_error,
    "rand_error": rand_error,
    "warping_error": warping_error,
    "vrand": vrand,
    "vinfo": vinfo,
}
OVERLAYS = ["measures_em", "measures_instances", "measures_surface", "post_watershed"]


def overlays(*names):
    return [UNET / "configs" / f"{name}.yaml" for name in names]


@pytest.fixture
def evaluated(run_bundle, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns(".lock"))
    files = [run / "configs" / "train.json", run / "configs" / "evaluate.json", *overlays(*OVERLAYS)]
    run_bundle("evaluating", *files, output_dir=str(tmp_path / "scores"), device="cpu", **{"mlflow#uri": None})
    return tmp_path / "scores"


def expected(truth, prediction, instances, probability):
    mask = (separate_instances(truth, gap=1) > 0).astype(int)
    return {
        "accuracy": accuracy(mask, prediction),
        "hd95/cell": hd95(mask, prediction, 2)[1],
        **{f"{name}_own_threshold": measure(mask, probability) for name, measure in OF_STACK.items()},
        "seg": seg_score(truth, instances),
        "average_precision": average_precision(truth, instances),
        "ap50": average_precision(truth, instances, [0.5]),
        "panoptic_quality": panoptic_quality(truth, instances),
    }


def test_measures_are_those_of_the_predicted_files(evaluated, run_bundle, trained, discs, tmp_path):
    options = {"input_dir": str(discs / "images"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    files = [trained / "configs" / "inference.json", *overlays("post_watershed")]
    run_bundle("inference", *files, save_probabilities=True, **options)
    with (evaluated / "cases.csv").open() as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["disc_6", "disc_7"]
    masks, probabilities = [], []
    for case, row in rows.items():
        written = [tifffile.imread(tmp_path / "out" / f"{case}{name}.tif") for name in ("", "_instances", "_prob")]
        truth = tifffile.imread(discs / "labels" / f"{case}.tif").astype(int)
        masks.append(separate_instances(truth, gap=1) > 0)
        probabilities.append(1 - written[2][0])
        want = expected(truth, *written[:2], probabilities[-1])
        assert {name: float(row[name]) for name in want} == pytest.approx(want, abs=1e-6)
        assert ((written[0] > 0) & (written[1] == 0)).sum() < 10, "only what is smaller than min_size is left out"
        assert float(row["seg"]) > 0.3, "objects were found, or the comparison says nothing"
    means = {name: np.mean([float(row[name]) for row in rows.values()]) for name in want}
    found = json.loads((evaluated / "scores.json").read_text())
    assert {name: found["scores"][name]["mean"] for name in want} == pytest.approx(means, abs=1e-5)
    of_stack = {name: measure(np.stack(masks), np.stack(probabilities)) for name, measure in OF_STACK.items()}
    assert found["stack"] == pytest.approx(of_stack, abs=1e-5)
    assert not of_stack.keys() & found["scores"].keys()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("discs").experiment_id])
    tracked = {**means, **of_stack}
    assert {name: run.data.metrics[f"test/{name}"] for name in tracked} == pytest.approx(tracked, abs=1e-5)


def test_a_run_that_was_trained_with_instances_writes_them(run_bundle, only_run, discs, tmp_path):
    run_bundle("training", "train.json", *overlays("post_components", "measures_instances"), epochs=1)
    kept = json.loads((only_run() / "configs" / "inference.json").read_text())
    assert kept["save_instances"] is True
    assert kept["instances"]["min_size"] == 10
    scores = json.loads((only_run() / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert scores["seg"]["cases"] == 3
    options = {"input_dir": str(discs / "images"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    run_bundle("inference", only_run() / "configs" / "inference.json", **options)
    assert len(list((tmp_path / "out").glob("*_instances.tif"))) == 8


def test_one_output_averaged_and_weighted_is_measured_too(run_bundle, only_run):
    others = overlays("net_compact", "infer_dihedral8", "loss_border", *OVERLAYS)
    run_bundle("training", "train.json", *others, epochs=1)
    found = json.loads((only_run() / "evaluation" / "validation" / "scores.json").read_text())
    for name in ("mean_dice", "accuracy", "mean_hd95", "surface_dice/cell", "vinfo_own_threshold", "seg", "ap50"):
        assert found["scores"][name]["cases"] == 3, name
    assert found["stack"].keys() == OF_STACK.keys()
    assert "as one stack" in (only_run() / "docs" / "README.md").read_text(), "the model card"


def test_the_uncertainty_is_written_where_versions_are_averaged(run_bundle, trained, discs, tmp_path):
    options = {"input_dir": str(discs / "images"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    files = [trained / "configs" / "inference.json", *overlays("infer_dihedral8")]
    run_bundle("inference", *files, save_uncertainty="true", **options)
    uncertainty = tifffile.imread(tmp_path / "out" / "disc_6_uncertainty.tif")
    assert (uncertainty.dtype, uncertainty.shape) == (np.float32, (48, 48))
    assert 0 <= uncertainty.min() < uncertainty.max() <= 0.5
    assert tifffile.imread(tmp_path / "out" / "disc_6.tif").max() == 1
