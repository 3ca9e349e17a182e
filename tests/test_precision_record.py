"""The record beside the weights: what it measures, when it proves something, and when it does not."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from discs import ROOT

from pipeline import precision_record
from pipeline.errors import InputError
from pipeline.networks.precision import has_bfloat16
from pipeline.precision_record import _scores, prove, record_precision, why_not_proven
from pipeline.provenance import digest
from pipeline.synthetic.cells import make_cells

NAMES = {0: "background", 1: "cell", 2: "wall"}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A copy of the 2D bundle without a record, on a machine that computes bfloat16."""
    monkeypatch.setattr(precision_record, "has_bfloat16", lambda device: True)
    shutil.copytree(ROOT / "bundles" / "unet", tmp_path / "unet", ignore=shutil.ignore_patterns("precision.json"))
    return tmp_path / "unet"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        tifffile.imwrite(folder / f"{number}.tif", make_cells(number)[0][:96, :80])
    return folder


def cases(folder):
    return [{"id": file.stem, "image": str(file)} for file in sorted(folder.iterdir())]


def read(bundle):
    return json.loads((bundle / "models" / "precision.json").read_text())


def test_dice_is_the_mean_of_the_cases_that_have_the_class():
    # Each row of a case: voxels in both, in float32, in bfloat16.
    first = [[90, 95, 95], [10, 10, 10], [0, 0, 0]]  # cell 1.0, no wall in either
    second = [[90, 95, 95], [8, 10, 10], [3, 4, 4]]  # cell 0.8, wall 0.75
    found = _scores(np.array([first, second]), NAMES)
    assert found["dice"] == {"cell": pytest.approx(0.9), "wall": pytest.approx(0.75)}
    assert found["mean"] == pytest.approx(0.825)
    assert found["least"] == pytest.approx(0.75)


def test_a_class_that_only_one_of_them_has_counts_as_lost():
    found = _scores(np.array([[[9, 10, 9], [0, 0, 1], [5, 5, 5]]]), NAMES)
    assert found["dice"] == {"cell": 0.0, "wall": 1.0}


def test_nothing_but_background_proves_nothing():
    assert _scores(np.array([[[9, 9, 9], [0, 0, 0], [0, 0, 0]]]), NAMES) == {"dice": {}}


def test_the_shipped_weights_keep_their_labels(bundle, images):
    assert record_precision(bundle, cases(images), "cpu") == bundle / "models" / "precision.json"
    found = read(bundle)
    assert found["weights"] == digest(bundle / "models" / "model.pt")
    assert found["cases"] == 3
    assert 0.999 < found["least"] <= found["dice"]["cell"] == found["mean"] < 1
    assert why_not_proven(bundle / "models" / "model.pt") is None


def test_of_many_cases_some_that_lie_evenly_are_measured(bundle, images, monkeypatch):
    monkeypatch.setattr(precision_record, "CASES", 2)
    seen = []
    monkeypatch.setattr(
        precision_record, "_overlaps", lambda parser, network, chosen, device: seen.extend(chosen) or [np.ones((2, 3))]
    )
    record_precision(bundle, cases(images), "cpu")
    assert [case["id"] for case in seen] == ["0", "2"]


def test_a_narrow_format_that_changes_labels_is_found(bundle, images, monkeypatch):
    original = precision_record.for_prediction

    def rounded(network, dtype):
        prepared = original(network, dtype)
        if dtype == torch.bfloat16:  # as if the weights had lost most of their digits
            for value in prepared.parameters():
                value.data = (value.data * 4).round() / 4
        return prepared

    monkeypatch.setattr(precision_record, "for_prediction", rounded)
    told = prove(bundle, str(images), "cpu")
    assert "bfloat16 changes labels: the Dice of 'cell' to float32 is 0." in told
    assert why_not_proven(bundle / "models" / "model.pt") in told


def test_images_without_objects_leave_no_record(bundle, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", np.full((64, 64), 7, np.uint8))
    with pytest.raises(InputError, match="shows an object"):
        prove(bundle, str(folder), "cpu")
    assert not (bundle / "models" / "precision.json").exists()


def test_a_machine_without_a_unit_leaves_no_record(bundle, images, monkeypatch):
    monkeypatch.setattr(precision_record, "has_bfloat16", lambda device: False)
    assert record_precision(bundle, cases(images), "cpu") is None
    with pytest.raises(InputError, match="computes no bfloat16"):
        prove(bundle, str(images), "cpu")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record, None),
        (lambda record: record | {"weights": "other"}, "about other weights"),
        (lambda record: record | {"dice": {"cell": 0.9989}}, "Dice of 'cell' to float32 is 0.9989"),
        (lambda record: record | {"classes": ["cell", "wall"]}, "shows 'wall'"),
        (lambda record: record | {"mean": 0.5}, "changes labels"),
        (lambda record: record | {"least": 0.98}, "in one case"),
        (lambda record: record | {"mean": float("nan")}, "damaged"),
        (lambda record: record | {"mean": 7}, "damaged"),
        (lambda record: record | {"mean": True}, "damaged"),
        (lambda record: {"dice": {}}, "damaged"),
        (lambda record: [record], "damaged"),
    ],
)
def test_what_a_record_proves(change, reason, tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    assert "no record" in why_not_proven(weights)
    scores = {"classes": ["cell"], "dice": {"cell": 0.999}, "mean": 0.999, "least": 0.99}
    record = {"weights": digest(weights), "cases": 2, **scores}
    (tmp_path / "precision.json").write_text(json.dumps(change(record)))
    found = why_not_proven(weights)
    assert found is None if reason is None else reason in found


def test_a_record_of_endless_depth_is_damaged(tmp_path):
    (tmp_path / "precision.json").write_text("[" * 100_000)
    assert "damaged" in why_not_proven(tmp_path / "model.pt")


def test_a_record_is_of_the_settings_it_was_made_with(bundle, images):
    """Where it runs, and what else is written, decides on no label; a normalisation does."""
    record_precision(bundle, cases(images), "cpu")
    weights = bundle / "models" / "model.pt"
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    assert why_not_proven(weights, {**config, "device": "cuda", "save_pictures": True, "input_dir": "x"}) is None
    assert "other settings" in why_not_proven(weights, {**config, "preprocessing": None})


def test_a_folder_that_is_no_bundle_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(precision_record, "has_bfloat16", lambda device: True)
    with pytest.raises(InputError, match="no bundle"):
        prove(tmp_path, str(tmp_path), "cpu")


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor computes no bfloat16")
def test_a_training_leaves_a_record_of_its_best_weights(trained):
    found = read(trained)
    assert found["weights"] == digest(trained / "models" / "model.pt")
    assert found["cases"] > 0
    assert list(found["dice"]) == json.loads((trained / "configs" / "inference.json").read_text())["class_names"][1:]
