"""bundles/unet keeps the promises that other programs rely on, as it stands and as a run leaves it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
import yaml
from discs import UNET, small_training
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import ckpt_export, onnx_export, verify_net_in_out

from pipeline.bundle import OWN_OF_INFERENCE, flatten
from pipeline.metrics.overlap import dice

CONFIGS = UNET / "configs"
COMPLETE = ("train.json", "inference.json")
OVERLAYS = ("evaluate.json", "multi_gpu.json", *(file.name for file in CONFIGS.glob("*.yaml")))
OTHER_DATA = ("data_dsb2018.yaml", "data_isbi2012.yaml", "net_keras3.yaml")  # do not fit the discs


def load(name):
    return ConfigParser.load_config_file(str(CONFIGS / name))


ALONE = [
    (UNET, ["train.json"], "training"),
    (UNET, ["inference.json"], "inference"),
    (UNET, ["train.json", "evaluate.json"], "evaluation"),
    *((UNET, ["train.json", file.name], "training") for file in CONFIGS.glob("*.yaml") if file.name not in OTHER_DATA),
]
AS_LEFT_BY_A_RUN = [(None, files, kind) for _, files, kind in ALONE[:3]]


@pytest.mark.parametrize(("bundle", "files", "kind"), ALONE + AS_LEFT_BY_A_RUN, ids=str)
def test_every_config_has_all_properties(bundle, files, kind, discs, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str((bundle or trained) / "configs" / name) for name in files]
    options = small_training(discs) if bundle and files[0] == "train.json" else {}
    options |= {"input_dir": str(discs / "images")} if files[0] == "inference.json" else {}
    workflow = ConfigWorkflow(paths, workflow_type=kind, logging_file=False, **options)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not (tmp_path / "runs").exists(), "looking at a config starts nothing"


def test_the_network_is_what_the_metadata_says(trained):
    configs = trained / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out(net_id="network_def", device="cpu", **files)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_export_gives_the_trained_network(trained, tmp_path):
    configs = trained / "configs"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
    )
    image = torch.randn(1, 1, 48, 40)
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(image)
        torch.testing.assert_close(exported, network_of(trained)(image))


@pytest.mark.filterwarnings("ignore")  # torch.onnx and onnxscript deprecate parts of one another
def test_onnx_export_gives_the_trained_network(trained, tmp_path):
    import onnxruntime

    configs = trained / "configs"
    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        input_shape=[1, 1, 32, 32],
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(1, 1, 32, 32)
    (exported,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(exported), network_of(trained)(image), atol=1e-4, rtol=1e-4)


def network_of(run):
    network = ConfigParser(ConfigParser.load_config_file(str(run / "configs" / "inference.json")))
    network = network.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
    return network


def test_what_both_complete_files_hold_is_equal():
    train, inference = load("train.json"), load("inference.json")
    shared = (train.keys() & inference.keys()) - OWN_OF_INFERENCE
    assert shared >= {"network_def", "network", "preprocessing", "inferer", "postprocessing", "class_names"}
    assert {key: train[key] for key in shared} == {key: inference[key] for key in shared}
    assert train["bundle_root"] == inference["bundle_root"]


@pytest.mark.parametrize("name", COMPLETE + OVERLAYS)
def test_expressions_are_short_and_paths_relative(name):
    for key, value in flatten(load(name)).items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            assert not str(text).startswith("/"), f"{key} is an absolute path"
            if str(text).startswith("$"):
                assert "\n" not in text, f"{key} is longer than a line"
                assert len(text) <= 100, f"{key} is longer than a line"
                assert "lambda" not in text, f"{key} holds a lambda"


@pytest.mark.parametrize("name", COMPLETE)
def test_the_names_that_others_rely_on(name):
    config = load(name)
    training = {"epochs", "seed", "output_dir", "dataset_dir", "data_list", "run_name", "resume", "device"}
    assert config.keys() >= (training if name == "train.json" else {"input_dir", "output_dir"})
    assert config["run"] == ("%training" if name == "train.json" else "%inference")
    assert load("evaluate.json")["run"] == "%evaluating"


def test_metadata_is_complete():
    metadata = load("metadata.json")
    assert metadata["version"] in metadata["changelog"]
    required = (
        "schema monai_version pytorch_version numpy_version required_packages_version name task description authors"
    )
    required += " copyright network_data_format supported_apps data_source data_type image_classes label_classes"
    assert metadata.keys() >= {*required.split(), "pred_classes", "eval_metrics", "references"}
    declared = (UNET.parents[1] / "pyproject.toml").read_text()
    for package, version in metadata["required_packages_version"].items():
        assert package.lower() in declared.lower(), f"{package} {version} is no dependency"


def test_handlers_are_written_out_so_that_other_programs_can_replace_them():
    for handler in load("train.json")["train"]["handlers"]:
        assert isinstance(handler, dict), "MONAI Label reads the handlers' dictionaries"
        assert "_target_" in handler


def test_a_program_that_never_runs_initialize_gets_trained_predictions(trained, discs, tmp_path):
    """As 3D Slicer's bundle script does: parse, override, `evaluator.run()`."""
    parser = ConfigParser()
    parser.read_config(str(trained / "configs" / "inference.json"))
    overrides = {"bundle_root": str(trained), "dataset_dir": str(discs / "images"), "input_dir": str(discs / "images")}
    parser.update({**overrides, "output_dir": str(tmp_path / "out"), "device": "cpu", "dataloader#num_workers": 0})
    parser.get_parsed_content("evaluator").run()
    written = [tifffile.imread(file) for file in sorted((tmp_path / "out").glob("*.tif"))]
    truth = [tifffile.imread(file) for file in sorted((discs / "labels").iterdir())]
    scores = [dice(mask > 0, label, 2)[1] for mask, label in zip(truth, written, strict=True)]
    assert np.mean(scores) > 0.5, "the weights were loaded"


def test_two_ranks_train_one_run(discs, tmp_path, empty_store):
    options = {**small_training(discs), "output_dir": str(tmp_path / "runs"), "run_name": "both", "device": "cpu"}
    options["mlflow#uri"] = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = [item for key, value in options.items() for item in (f"--{key}", str(value))]
    files = str([str(CONFIGS / name) for name in ("train.json", "multi_gpu.json")])
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "monai.bundle",
    ]
    command += ["run", "training", "--config_file", files, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (run,) = (tmp_path / "runs").iterdir()
    scores = json.loads((run / "evaluation" / "validation" / "scores.json").read_text())
    assert scores["cases"] == 3  # of both ranks, none twice
    from mlflow.tracking import MlflowClient

    client = MlflowClient(options["mlflow#uri"])
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [tracked.info.status for tracked in runs] == ["FINISHED"]


def test_overlays_are_yaml_that_loads():
    for name in OVERLAYS:
        text = (CONFIGS / name).read_text()
        assert yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)


def test_labels_are_never_interpolated():
    config = load("train.json")
    modes = dict(zip(config["spatial_keys"], config["spatial_modes"], strict=True))
    assert modes == {"image": "linear", "label": "nearest", "weight": "linear"}
    assert (config["spatial_augmentation"]["keys"], config["spatial_augmentation"]["mode"]) == (
        "@spatial_keys",
        "@spatial_modes",
    )
