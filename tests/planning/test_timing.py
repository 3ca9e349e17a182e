"""Steps and cases are those of the bundle's own training, of a few cases and with nothing left behind."""

import pytest
from blobs import UNET3D, write_blobs
from discs import UNET, small_training, write_discs

from pipeline.planning import timing


@pytest.fixture
def discs_settings(tmp_path):
    write_discs(tmp_path)
    kept = {"network_def#channels", "crop_size", "batch_size", "dataset_dir", "data_list"}
    return {key: value for key, value in small_training(tmp_path).items() if key in kept}


def test_as_many_steps_as_asked_for_and_nothing_left(tmp_path, discs_settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    config = UNET / "configs" / "train.json"
    times = timing._times(config, discs_settings, "train#trainer", 5)
    assert len(times) == 5
    assert all(0 < seconds < 10 for seconds in times)
    assert len(timing._times(config, discs_settings, "validate#evaluator", 5)) == 3  # there are but three
    assert set(tmp_path.rglob("*")) == before


def test_a_wider_network_takes_longer(discs_settings):
    config = UNET / "configs" / "train.json"
    settings = discs_settings | {"crop_size": [48, 48], "batch_size": 8}
    narrow = timing.step_seconds(config, settings | {"network_def#channels": [4, 8]})
    wide = timing.step_seconds(config, settings | {"network_def#channels": [64, 128]})
    assert wide > 2 * narrow


def test_volumes(tmp_path):
    data_list = write_blobs(tmp_path, count=5)
    settings = {
        "data_list": str(data_list),
        "dataset_dir": str(tmp_path),
        "network_def#channels": [2, 4],
        "network_def#strides": [[2, 2, 1]],
        "crop_size": [16, 16, 8],
        "class_names": ["background", "liver", "kidney", "vessel"],
    }
    assert 0 < timing.load_seconds(UNET3D / "configs" / "train.json", settings) < 10
    assert 0 < timing.step_seconds(UNET3D / "configs" / "train.json", settings) < 10
    assert 0 < timing.case_seconds(UNET3D / "configs" / "train.json", settings) < 10
