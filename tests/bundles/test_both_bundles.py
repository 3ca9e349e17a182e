"""Both bundles keep the promises that other programs rely on, as they stand and as a run leaves them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
import yaml
from kinds import KINDS
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import ckpt_export, onnx_export, verify_net_in_out
from torchrun import Torchrun, command

from pipeline.bundle import OWN_OF_INFERENCE, flatten
from pipeline.inference import predict_with_bundle
from pipeline.metrics.overlap import dice
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs
from pipeline.transforms.instances_to_mask import separate_instances

COMPLETE = ("train.json", "inference.json")
LATER = ("evaluate.json", "multi_gpu.json")
ALONE = [(["train.json"], "training"), (["inference.json"], "inference"), (["train.json", LATER[0]], "evaluation")]
WITH_OVERLAYS = [
    (name, ["train.json", overlay], "training")
    for name, kind in KINDS.items()
    for overlay in kind.overlays
    if overlay not in kind.other_data
]
FILES = [(name, file) for name, kind in KINDS.items() for file in (*COMPLETE, *LATER, *kind.overlays)]


def load(kind, name):
    return ConfigParser.load_config_file(str(kind.configs / name))


def load_of(run, name):
    return json.loads((run / "configs" / name).read_text())


def properties_of(folder, files, workflow_type, data, options):
    """What the bundle lacks of the properties that MONAI asks for, once it is initialized."""
    paths = [str(folder / "configs" / name) for name in files]
    options = options if files[0] == "train.json" else {"input_dir": str(data / "images")}
    workflow = ConfigWorkflow(paths, workflow_type=workflow_type, logging_file=False, **options)
    workflow.initialize()
    return workflow.check_properties()


@pytest.mark.parametrize(("files", "workflow_type"), ALONE, ids=str)
def test_every_config_has_all_properties(files, workflow_type, kind, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert properties_of(kind.root, files, workflow_type, data, kind.small(data)) == []
    assert not (tmp_path / "runs").exists(), "looking at a config starts nothing"


@pytest.mark.parametrize(("files", "workflow_type"), ALONE, ids=str)
def test_every_config_that_a_run_leaves_has_all_properties(
    files, workflow_type, trained_run, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert properties_of(trained_run, files, workflow_type, data, {}) == []


@pytest.mark.parametrize(("name", "files", "workflow_type"), WITH_OVERLAYS, ids=str)
def test_every_overlay_keeps_all_properties(name, files, workflow_type, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = request.getfixturevalue(KINDS[name].data)
    assert properties_of(KINDS[name].root, files, workflow_type, data, KINDS[name].small(data)) == []


def test_the_network_is_what_the_metadata_says(trained_run):
    configs = trained_run / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    # An instance norm needs more than the one voxel that n = 1 leaves on the lowest level.
    verify_net_in_out(net_id="network_def", device="cpu", **files)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_export_gives_the_trained_network(kind, trained_run, tmp_path):
    configs = trained_run / "configs"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained_run / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
    )
    image = torch.randn(1, 1, *kind.image_size)
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(image)
        torch.testing.assert_close(exported, network_of(trained_run)(image))


@pytest.mark.filterwarnings("ignore")  # torch.onnx and onnxscript deprecate parts of one another
def test_onnx_export_gives_the_trained_network(kind, trained_run, tmp_path):
    import onnxruntime

    configs = trained_run / "configs"
    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(trained_run / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        input_shape=[1, 1, *kind.image_size],
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(1, 1, *kind.image_size)
    (exported,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(exported), network_of(trained_run)(image), atol=1e-4, rtol=1e-4)


def network_of(run):
    network = ConfigParser(ConfigParser.load_config_file(str(run / "configs" / "inference.json")))
    network = network.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
    return network


def test_what_both_complete_files_hold_is_equal(kind):
    train, inference = load(kind, "train.json"), load(kind, "inference.json")
    shared = (train.keys() & inference.keys()) - (OWN_OF_INFERENCE - {"network"})
    assert shared >= {"network_def", "network", "preprocessing", "inferer", "postprocessing", "class_names"}
    assert {key: train[key] for key in shared} == {key: inference[key] for key in shared}
    assert train["bundle_root"] == inference["bundle_root"]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_expressions_are_short_and_paths_relative(name, file):
    for key, value in flatten(load(KINDS[name], file)).items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            assert not str(text).startswith("/"), f"{key} is an absolute path"
            if str(text).startswith("$"):
                assert "\n" not in text, f"{key} is longer than a line"
                assert len(text) <= 100, f"{key} is longer than a line"
                assert "lambda" not in text, f"{key} holds a lambda"


@pytest.mark.parametrize("name", COMPLETE)
def test_the_names_that_others_rely_on(name, kind):
    config = load(kind, name)
    training = {"epochs", "seed", "output_dir", "dataset_dir", "data_list", "run_name", "resume", "device"}
    assert config.keys() >= (training if name == "train.json" else {"input_dir", "output_dir"})
    assert config["run"] == ("%training" if name == "train.json" else "%inference")
    assert load(kind, "evaluate.json")["run"] == "%evaluating"


def test_metadata_is_complete(kind):
    metadata = load(kind, "metadata.json")
    assert metadata["name"] == kind.root.name
    assert (kind.root / "LICENSE").is_file()
    assert metadata["version"] in metadata["changelog"]
    required = (
        "schema monai_version pytorch_version numpy_version required_packages_version name task description authors"
    )
    required += " copyright network_data_format supported_apps data_source data_type image_classes label_classes"
    assert metadata.keys() >= {*required.split(), "pred_classes", "eval_metrics", "references"}
    assert metadata["eval_metrics"]
    assert all(0.5 < score < 1 for score in metadata["eval_metrics"].values()), "measured with the weights in models/"
    declared = (kind.root.parents[1] / "pyproject.toml").read_text()
    for package, version in metadata["required_packages_version"].items():
        assert package.lower() in declared.lower(), f"{package} {version} is no dependency"


def test_the_metadata_of_a_run_speak_of_its_own_data_and_scores(kind, data, trained_run):
    own, found = load(kind, "metadata.json"), load_of(trained_run, "metadata.json")
    told = load_of(trained_run, "data_list.json")
    assert found.keys() == own.keys(), "other programs look these up"
    assert found["description"].endswith(f"Trained on the data list '{told['name']}': {told['description']}")
    assert found["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": told["channels"][0]}
    scores = json.loads((trained_run / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert found["eval_metrics"]["val/mean_dice"] == scores["mean_dice"]["mean"]
    assert found["description"] in (trained_run / "docs" / "README.md").read_text()


def test_handlers_are_written_out_so_that_other_programs_can_replace_them(kind):
    for handler in load(kind, "train.json")["train"]["handlers"]:
        assert isinstance(handler, dict), "MONAI Label reads the handlers' dictionaries"
        assert "_target_" in handler


def test_a_program_that_never_runs_initialize_gets_trained_predictions(kind, trained_run, data, tmp_path):
    """As 3D Slicer's bundle script does: parse, override, `evaluator.run()`."""
    parser = ConfigParser()
    parser.read_config(str(trained_run / "configs" / "inference.json"))
    images = str(data / "images")
    overrides = {"bundle_root": str(trained_run), "dataset_dir": images, "input_dir": images, "device": "cpu"}
    parser.update({**overrides, "output_dir": str(tmp_path / "out"), "dataloader#num_workers": 0})
    parser.get_parsed_content("evaluator").run()
    written = [kind.read(file) for file in sorted((tmp_path / "out").glob(kind.pattern))]
    truth = [kind.read(file) for file in sorted((data / "labels").iterdir())]
    scores = [dice(label > 0, mask > 0, 2)[1] for label, mask in zip(truth, written, strict=True)]
    assert np.mean(scores) > 0.5, "the weights were loaded"


def test_two_ranks_train_one_run_in_3d(tmp_path, empty_store, blobs):
    """Of the 2D bundle, tests/reliability/test_torchrun.py."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    kind, store = KINDS["unet3d"], f"sqlite:///{tmp_path}/mlflow.db"
    options = {**kind.small(blobs), "output_dir": tmp_path / "runs", "run_name": "both", "mlflow#uri": store}
    files = [kind.configs / name for name in ("train.json", "multi_gpu.json")]
    status, printed = Torchrun(tmp_path, 2, command("training", *files, **options)).wait()
    assert status == 0, printed[-3000:]
    (run,) = (tmp_path / "runs").iterdir()
    scores = json.loads((run / "evaluation" / "validation" / "scores.json").read_text())
    assert scores["cases"] == 3  # of both ranks, none twice
    client = MlflowClient(store)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [tracked.info.status for tracked in runs] == ["FINISHED"]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_configs_load_without_monai(name, file):
    text = (KINDS[name].configs / file).read_text()
    assert yaml.safe_load(text) if file.endswith(".yaml") else json.loads(text)


def test_labels_are_never_interpolated(kind):
    config = load(kind, "train.json")
    modes = dict(zip(config["spatial_keys"], config["spatial_modes"], strict=True))
    assert modes == {"image": "linear", "label": "nearest", "weight": "linear"}
    assert (config["spatial_augmentation"]["keys"], config["spatial_augmentation"]["mode"]) == (
        "@spatial_keys",
        "@spatial_modes",
    )
    to_grid = config.get("label_to_grid", {"keys": "label", "mode": "nearest"})
    assert (to_grid["keys"], to_grid["mode"]) == ("label", "nearest")


def drawn_cells(folder):
    image, instances = make_cells(7)
    tifffile.imwrite(folder / "new.tif", image)
    return "new.tif", (separate_instances(instances) > 0).astype(int), 2


def drawn_organs(folder):
    scan = make_organs(7)
    nib.save(nib.Nifti1Image(scan.volume, scan.affine), folder / "new.nii.gz")
    return "new.nii.gz", scan.labels, 4


@pytest.mark.parametrize(("name", "draw"), [("unet", drawn_cells), ("unet3d", drawn_organs)])
def test_the_weights_of_the_repository_predict_what_they_have_never_seen(name, draw, tmp_path):
    kind = KINDS[name]
    (tmp_path / "in").mkdir()
    file, truth, classes = draw(tmp_path / "in")
    predict_with_bundle(kind.root, str(tmp_path / "in"), str(tmp_path / "out"), device="cpu", logging_file=False)
    assert np.mean(dice(truth, kind.read(tmp_path / "out" / file), classes)[1:]) > 0.85
