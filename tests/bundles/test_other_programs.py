"""MONAI Label and 3D Slicer use a run folder as it is: with their overrides, by the calls that they make of MONAI."""

import json
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigItem, ConfigParser, ConfigWorkflow
from monai.data import partition_dataset
from monai.handlers import CheckpointLoader
from monai.transforms import LoadImaged, SaveImaged

from pipeline import figures
from pipeline.inference import predict_with_bundle
from pipeline.tracking import Tracking


@pytest.fixture(scope="module")
def predicted(kind, trained_run, data, tmp_path_factory):
    """Label maps of `python -m pipeline predict`, in float32 as other programs compute, by the file's name."""
    out = tmp_path_factory.mktemp("predicted")
    options = {"device": "cpu", "precision": "float32", "logging_file": False}
    predict_with_bundle(trained_run, str(data / "images"), str(out), **options)
    return {file.name: kind.read(file) for file in sorted(out.glob(kind.pattern))}


# --- MONAI Label: its task for the inference of a bundle --------------------------------------------------------------


def label_task(bundle):
    """The parser, and the network with its weights, as MONAI Label's task makes them."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(bundle), "use_click": False})
    network = parser.get_parsed_content("network_def", instantiate=True)
    (file,) = (bundle / "models").glob("*.pt")  # every one would be offered as a model
    weights = torch.load(file, map_location="cpu")
    network.load_state_dict(weights.get("model", weights), strict=True)
    return parser, network.eval()


def with_device(parser, device):
    parser.config.update({"device": device})
    if parser.ref_resolver.items.get("device"):
        parser.ref_resolver.items["device"] = ConfigItem(config=device, id="device")


def label_inference(bundle, image):
    """The labels of an image that MONAI Label would write, (*spatial)."""
    parser, network = label_task(bundle)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    key = next(iter(metadata["network_data_format"]["inputs"]))
    pred = next(iter(metadata["network_data_format"]["outputs"]))
    item = {key: str(image), "image_path": str(image), "device": "cpu", "model_filename": ["model.pt"]}
    with_device(parser, item["device"])
    for transform in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        if isinstance(transform, LoadImaged):  # it is told to, and then replaced by one that needs all of its keys
            transform._loader.image_only = False
            assert all(isinstance(item[name], str) for name in transform.keys)
        item = transform(item)
    with torch.no_grad():
        item[pred] = parser.get_parsed_content("inferer", instantiate=True)(item[key][None], network)[0]
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        assert not isinstance(transform, SaveImaged), "it would be left out"
        item = transform(item)
    np.testing.assert_array_equal(item[key].meta["spatial_shape"], item[pred].shape[1:])  # else they are resized
    assert item[pred].shape[0] == 1
    return item[pred][0].numpy()


def test_monai_label_finds_the_labels_of_predict(trained_run, data, predicted):
    for image in sorted((data / "images").iterdir()):
        found = label_inference(trained_run, image)
        assert found.any()
        assert (found == predicted[image.name]).mean() >= 0.999


def test_monai_label_can_name_the_classes(trained_run, kind):
    metadata = json.loads((trained_run / "configs" / "metadata.json").read_text())
    channels = next(iter(metadata["network_data_format"]["outputs"].values()))["channel_def"]
    names = json.loads((trained_run / "configs" / "inference.json").read_text())["class_names"]
    assert [channels[str(number)] for number in range(len(channels))] == names
    assert channels["0"] == "background"  # the word that it leaves out


# --- MONAI Label: its task for training -------------------------------------------------------------------------------


@pytest.fixture
def own_run(trained_run, tmp_path, monkeypatch):
    """A copy of the run on a machine that lacks its data; it trains into `tmp_path`, without MLflow and pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tracking, "start", lambda *_, **__: None)
    monkeypatch.setattr(figures, "save", lambda *_: None)
    run = shutil.copytree(trained_run, tmp_path / "models" / "mine")
    file = run / "configs" / "train.json"
    places = {"output_dir": "runs", "dataset_dir": "nowhere"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **places}))
    return run


def label_overrides(run, data):
    """What MONAI Label's task gives `monai.bundle.run`: of its cases it knows the two files, and no ids."""
    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "train.json"))
    handlers = parser.get("train#handlers", [])
    assert not [handler for handler in handlers if handler.get("_target_") == "CheckpointLoader"]
    loader = {"_target_": "CheckpointLoader", "load_path": str(run / "models" / "model.pt"), "strict": False}
    handlers.insert(0, {**loader, "load_dict": {"model": "$@network"}})
    images = sorted((data / "images").iterdir())
    cases = [{"image": str(image), "label": str(data / "labels" / image.name)} for image in images]
    training, validation = partition_dataset(cases, ratios=[0.8, 0.2])
    return {
        "bundle_root": str(run),
        "train#trainer#max_epochs": 2,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": handlers,
        "validate#dataset#data": validation,
    }


def test_monai_label_trains_on_its_own_cases_from_the_bundles_weights(own_run, data, tmp_path, monkeypatch):
    begun = []
    load = CheckpointLoader.__call__

    def note(self, engine):
        load(self, engine)
        state = self.load_dict["model"].state_dict()
        expected = torch.load(own_run / "models" / "model.pt", weights_only=True)
        begun.append(all(torch.equal(state[name], tensor) for name, tensor in expected.items()))

    monkeypatch.setattr(CheckpointLoader, "__call__", note)
    meta_file, config_file = (str(own_run / "configs" / name) for name in ("metadata.json", "train.json"))
    options = {"workflow_type": "train", "run_id": "run", "logging_file": False, **label_overrides(own_run, data)}
    workflow = ConfigWorkflow(config_file, meta_file, **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert begun == [True]
    trainer = workflow.parser.get_parsed_content("train#trainer")
    assert trainer.state.epoch == 2
    assert trainer.state.iteration >= 2
    (run,) = (tmp_path / "runs").iterdir()
    scores = json.loads((run / "evaluation" / "validation" / "scores.json").read_text())
    assert scores["cases"] == len(options["validate#dataset#data"]), "the cases that it gave, not those of the list"
    assert label_inference(run, next((data / "images").iterdir())).shape  # what comes out can be served again


# --- 3D Slicer: a script that parses, sets keys and runs the evaluator ------------------------------------------------


def test_3d_slicer_finds_the_labels_of_predict(kind, trained_run, data, predicted, tmp_path):
    parser = ConfigParser()
    parser.read_config(str(trained_run / "configs" / "inference.json"))
    images = str(data / "images")
    parser.update({"bundle_root": str(trained_run), "dataset_dir": images, "input_dir": images, "device": "cpu"})
    parser.update({"output_dir": str(tmp_path / "out"), "dataloader#num_workers": 0})
    parser.get_parsed_content("evaluator").run()  # and never `initialize`
    written = {file.name: kind.read(file) for file in sorted((tmp_path / "out").glob(kind.pattern))}
    assert written.keys() == predicted.keys()
    for name, labels in written.items():
        assert (labels == predicted[name]).mean() >= 0.999
