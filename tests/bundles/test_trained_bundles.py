"""The bundles with trained weights: complete, small, told as they are, and they predict as they stand."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from discs import ROOT
from monai.bundle import ConfigParser

from pipeline.cli import main
from pipeline.datalists.check import check_fits
from pipeline.datalists.datalist import load_data_list
from pipeline.precision_record import why_not_proven

TRAINED = ("unet_membranes", "unet_nuclei", "unet3d_hippocampus")
HEADINGS = ("Data", "Training", "Scores", "Limits", "Commands", "Pictures", "References", "Licence")
SHARED = ("network_def", "preprocessing", "inferer", "tiling", "class_names", "postprocessing", "instances", "spacing")


@pytest.fixture(params=TRAINED)
def bundle(request):
    return ROOT / "bundles" / request.param


def config(bundle, name):
    return json.loads((bundle / "configs" / name).read_text())


def test_the_weights_are_small(bundle):
    assert 1e5 < (bundle / "models" / "model.pt").stat().st_size <= 12e6


def test_the_card_says_everything_in_the_zoos_order(bundle):
    card = (bundle / "docs" / "README.md").read_text()
    assert tuple(re.findall(r"^## (\w+)", card, re.MULTILINE)) == HEADINGS
    assert f"bundles/{bundle.name}" in card.split("## Commands")[1]
    assert (bundle / "LICENSE").is_file()


def test_the_scores_of_the_card_are_those_of_the_metadata(bundle):
    card = (bundle / "docs" / "README.md").read_text()
    scores = config(bundle, "metadata.json")["eval_metrics"]
    rows = dict(re.findall(r"^\| ([\w/]+) \| (\d\.\d{4}) \| \d\.\d{4} to ", card, re.MULTILINE))
    assert rows
    assert {name: scores[f"test/{name}"] for name in rows} == {name: float(score) for name, score in rows.items()}
    whole = {name: score for name, score in scores.items() if name.startswith("test/stack/")}
    assert bool(whole) == (bundle.name == "unet_membranes")
    for name, score in whole.items():
        assert f"\n| {name.removeprefix('test/stack/')} | {score:.4f} |\n" in card
    cases = load_data_list(ROOT / config(bundle, "train.json")["data_list"]).select("test")
    for case in cases:
        assert f"\n| {case.id} | " in card


def test_the_configs_name_nothing_of_the_machine_that_trained(bundle):
    for file in (bundle / "configs").glob("*.json"):
        assert not re.search(r'"(/|~|[A-Z]:)', file.read_text()), file
    train = config(bundle, "train.json")
    assert not Path(train["dataset_dir"]).is_absolute()
    assert train["run_name"] is None
    cases = load_data_list(ROOT / train["data_list"])
    check_fits(cases, train["class_names"], train["in_channels"], train["spatial_dims"])


def test_training_and_inference_agree(bundle):
    train, inference = config(bundle, "train.json"), config(bundle, "inference.json")
    for key in SHARED:
        if key in inference:
            assert train[key] == inference[key], key


def test_the_metadata_names_the_list_that_holds_the_test_cases_back(bundle):
    cases = load_data_list(ROOT / config(bundle, "train.json")["data_list"])
    metadata = config(bundle, "metadata.json")
    assert f"data list '{cases.name}'" in metadata["description"]
    assert f"data list '{cases.name}'" in metadata["data_source"]
    folder = Path(config(bundle, "inference.json")["input_dir"])
    assert folder == Path("data", cases.name, cases.select("test")[0].images[0]).parent


def test_bfloat16_is_proven_for_them(bundle):
    inference = ConfigParser.load_config_file(str(bundle / "configs" / "inference.json"))
    if (bundle / "models" / "precision.json").is_file():
        assert why_not_proven(bundle / "models" / "model.pt", inference) is None


def test_they_predict_as_they_stand(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "anywhere")
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    classes = len(config(bundle, "train.json")["class_names"])
    if config(bundle, "train.json")["spatial_dims"] == 2:
        tifffile.imwrite(tmp_path / "in" / "a.tif", random.integers(0, 255, (100, 90), np.uint8))
    else:
        volume = random.normal(100, 20, (30, 40, 28)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    main(["predict", str(copy), str(tmp_path / "in"), str(tmp_path / "out"), "--device", "cpu"])
    (file,) = [file for file in (tmp_path / "out").glob("a.*") if file.suffix in (".tif", ".gz")]
    labels = tifffile.imread(file) if file.suffix == ".tif" else nib.load(file).get_fdata()
    assert labels.shape == ((100, 90) if file.suffix == ".tif" else (30, 40, 28))
    assert set(np.unique(labels)) <= set(range(classes))


def test_the_nuclei_are_found_in_a_drawn_field(tmp_path):
    """Bright discs on a dark ground, as a fluorescence microscope shows nuclei: these weights have seen no such."""
    rows, columns = np.mgrid[:256, :256]
    random = np.random.default_rng(1)
    truth = np.zeros((256, 256), np.uint8)
    for row in range(30, 250, 50):
        for column in range(30, 250, 50):
            truth[(rows - row) ** 2 + (columns - column) ** 2 < 12**2] = 1
    image = random.poisson(8 + 60 * truth).astype(np.uint8)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", image)
    main(["predict", str(ROOT / "bundles" / "unet_nuclei"), str(tmp_path / "in"), str(tmp_path / "out"), "--instances"])
    found = tifffile.imread(tmp_path / "out" / "a.tif") > 0
    assert 2 * (found & (truth > 0)).sum() / (found.sum() + truth.sum()) > 0.85
    assert abs(int(tifffile.imread(tmp_path / "out" / "a_instances.tif").max()) - 25) <= 3
