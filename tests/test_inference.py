"""A bundle's inference config is run on what the user names, and its mistakes are told as such."""

import json

import numpy as np
import pytest
import tifffile
import torch
from test_predict import image, threshold, write_images

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose network is the threshold above, in the fewest lines."""
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    torch.save(threshold(100.5).state_dict(), tmp_path / "bundle" / "models" / "model.pt")
    saving = {
        "_target_": "pipeline.transforms.save_image.AtomicSaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
    }
    config = {
        "bundle_root": "elsewhere",
        "input_dir": "elsewhere",
        "output_dir": "elsewhere",
        "resume": False,
        "num_shards": 1,
        "shard_id": 0,
        "predictor": {
            "_target_": "pipeline.predict.FolderPredictor",
            "input_dir": "@input_dir",
            "output_dir": "@output_dir",
            "network": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
            "weights": "$@bundle_root + '/models/model.pt'",
            "preprocessing": {
                "_target_": "pipeline.transforms.load_image.StrictLoadImaged",
                "keys": "image",
                "spatial_dims": 2,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "pipeline.transforms.classes_from_logits.ClassesFromLogitsd", "keys": "pred"},
                    saving,
                ],
            },
        },
        "initialize": [],
        "inference": ["$@predictor.run()"],
    }
    (tmp_path / "bundle" / "configs").mkdir()
    (tmp_path / "bundle" / "configs" / "inference.json").write_text(json.dumps(config))
    return tmp_path / "bundle"


def test_the_config_of_a_bundle_is_run_with_its_own_weights(bundle, tmp_path, monkeypatch):
    write_images(tmp_path / "in", "a.tif")
    monkeypatch.chdir(tmp_path)
    predict_with_bundle("bundle", "in", "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 100)


def test_the_command_ends_with_status_1_after_the_others_are_done(bundle, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")
    (tmp_path / "in" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(bundle), str(tmp_path / "in"), str(tmp_path / "out")])
    assert isinstance(caught.value.code, str), "which Python prints to stderr before it ends with status 1"
    assert caught.value.code.startswith(f"error: file '{tmp_path}/out/summary.csv': 1 of 2 images were not predicted")
    assert (tmp_path / "out" / "b.tif").exists()


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(InputError) as caught:
        predict_with_bundle(tmp_path, "in", "out")
    assert caught.value.file == str(tmp_path / "configs" / "inference.json")
    assert "name a run's folder" in caught.value.remedy


def test_paths_are_taken_as_they_are_spelled(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("h #1", "@in", "$in", "%in")):
        write_images(tmp_path / name, "a.tif")
        predict_with_bundle(bundle, name, f"{name[0]}out#{number}")
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{name[0]}out#{number}" / "a.tif"), image(0) > 100)


def test_overlays_that_are_missing_or_do_not_fit(bundle, tmp_path):
    write_images(tmp_path / "in", "a.tif")
    with pytest.raises(InputError, match=r"file 'nope\.yaml': there is no such overlay"):
        predict_with_bundle(bundle, tmp_path / "in", tmp_path / "out", ["nope.yaml"])
    (tmp_path / "loss.yaml").write_text("loss#regions: true\n")
    with pytest.raises(InputError, match=r"loss\.yaml': an overlay changes what an inference config does not have"):
        predict_with_bundle(bundle, tmp_path / "in", tmp_path / "out", [str(tmp_path / "loss.yaml")])


def test_a_bug_in_a_config_is_no_users_mistake(bundle, tmp_path):
    file = bundle / "configs" / "inference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"inference": ["$1 / 0"]}))
    with pytest.raises(RuntimeError) as caught:
        predict_with_bundle(bundle, str(tmp_path), str(tmp_path / "out"))
    assert not isinstance(caught.value, InputError)
