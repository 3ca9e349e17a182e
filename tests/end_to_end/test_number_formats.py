"""Training in bfloat16 comes to what training in float32 comes to."""

import json

import pytest
from discs import UNET


@pytest.fixture
def cells(tmp_path):
    """Overrides that let bundles/unet train on some crops of its own data."""
    return {
        "data_list": str(UNET.parents[1] / "data_lists" / "cells.json"),
        "dataset_dir": str(tmp_path / "cells"),
        "network_def#channels": [8, 16, 32],
        "crop_size": [96, 96],
        "batch_size": 4,
        "crops_per_case": 2,
        "epochs": 10,
        "val_interval": 10,
        "learning_rate": 0.01,
    }


@pytest.mark.slow
def test_the_dice_on_the_embedded_cells_differs_by_less_than_two_hundredths(run_bundle, cells, tmp_path):
    """Two seeds in float32 differ by about as much."""
    found = {}
    for precision in ("float32", "bfloat16"):
        run_bundle("training", "train.json", **cells, precision=precision, run_name=precision)
        scores = tmp_path / "runs" / precision / "evaluation" / "validation" / "scores.json"
        found[precision] = json.loads(scores.read_text())["scores"]["mean_dice"]["mean"]
    assert min(found.values()) > 0.7, "both have learned"
    assert found["bfloat16"] != found["float32"], "the choice has an effect"
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.02)
