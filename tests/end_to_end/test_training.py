"""What a training run leaves: a bundle that predicts, an MLflow run, and nothing of another run overwritten."""

import json
import math
import shutil

import pytest
import torch
import yaml
from discs import UNET
from run_files import last, mlflow_run, weights

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.networks.precision import has_bfloat16

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def test_a_run_with_an_overlay_leaves_a_bundle_that_predicts(run_bundle, only_run, tmp_path, discs, monkeypatch):
    overlay = {"network_def#upsample": "nearest", "network_def#norm": "instance"}
    (tmp_path / "net_other.yaml").write_text(yaml.safe_dump(overlay))
    run_bundle("training", "train.json", tmp_path / "net_other.yaml")
    run = only_run()
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    assert files >= {
        "LICENSE",
        "configs/train.json",
        "configs/inference.json",
        "configs/evaluate.json",
        "configs/metadata.json",
        "configs/logging.conf",
        "configs/data_list.json",
        "docs/README.md",
        "models/model.pt",
        "checkpoints/last.pt",
        "evaluation/validation/cases.csv",
        "evaluation/validation/scores.json",
        "evaluation/validation/worst.png",
        "evaluation/validation/curves.png",
    }
    record = ["precision.json"] if has_bfloat16("cpu") else []
    assert sorted(file.name for file in (run / "models").iterdir()) == ["model.pt", *record]
    moved = run.rename(tmp_path / "moved elsewhere")
    monkeypatch.chdir(discs)  # nothing of the repository is in reach
    out = tmp_path / "out"
    run_bundle(
        "inference",
        moved / "configs" / "inference.json",
        input_dir=str(discs / "images"),
        output_dir=str(out),
        device="cpu",
    )
    assert {file.name for file in out.glob("*.tif")} == {file.name for file in (discs / "images").iterdir()}
    described = json.loads((moved / "configs" / "inference.json").read_text())["network_def"]
    assert (described["channels"], described["upsample"], described["norm"]) == ([4, 8], "nearest", "instance")


def test_a_loss_that_is_no_number_stops_training_and_names_the_cases(run_bundle, only_run, tmp_path):
    with pytest.raises(
        InputError, match=r"case 'disc_\d, disc_\d'.*loss is nan at epoch 1, iteration 1.*Remedy"
    ) as caught:
        run_bundle("training", "train.json", **{"loss#class_weight": [float("nan"), 1.0]})
    assert "network's output is not" in str(caught.value)
    run = only_run()
    assert not (run / "models" / "model.pt").exists()
    _, tracked = mlflow_run(tmp_path, run)
    assert tracked.info.status == "FAILED"
    assert "loss is nan" in tracked.data.tags["error"]


def test_a_second_run_never_overwrites_an_earlier_one(run_bundle, tmp_path):
    run_bundle("training", "train.json", epochs=1)
    (first,) = (tmp_path / "runs").iterdir()
    before = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    run_bundle("training", "train.json", epochs=1)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert {file: file.read_bytes() for file in before} == before
    with pytest.raises(InputError, match="never overwritten"):
        run_bundle("training", "train.json", epochs=1, run_name=first.name)
    assert {file: file.read_bytes() for file in before} == before


def test_mlflow_remembers_the_run(run_bundle, only_run, tmp_path):
    run_bundle("training", "train.json", epochs=2, seed=7, learning_rate=0.003)
    client, tracked = mlflow_run(tmp_path, only_run())
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == only_run().name
    params, tags, metrics = tracked.data.params, tracked.data.tags, tracked.data.metrics
    assert params["epochs"] == "2"
    assert params["learning_rate"] == "0.003"
    assert params["network_def/channels"] == "[4, 8]"
    assert params["spatial_augmentation/sigma"] == "10.0"
    assert tags["bundle"] == "unet"
    assert tags["seed"] == "7"
    assert tags["device"] == "cpu"
    assert len(tags["data_list.digest"]) == len(tags["model_digest"]) == 64
    assert {"mlflow.source.git.commit", "git.dirty", "host", "bundle.version", "mlflow.user"} <= tags.keys()
    assert {
        "train/loss",
        "train/learning_rate",
        "val/mean_dice",
        "val/dice/cell",
        "time/epoch",
        "time/data",
        "time/forward",
        "time/validation",
        "time/checkpoint",
        "best/mean_dice",
    } <= metrics.keys()
    run_id = tracked.info.run_id
    iterations = client.get_metric_history(run_id, "train/iteration_loss")
    assert [metric.step for metric in iterations] == list(range(1, len(iterations) + 1))
    artifacts = {
        file.path
        for folder in ("evaluation/validation", "bundle/configs", "bundle/models")
        for file in client.list_artifacts(run_id, folder)
    }
    assert {
        "evaluation/validation/curves.png",
        "evaluation/validation/worst.png",
        "evaluation/validation/best.png",
        "evaluation/validation/cases.csv",
        "bundle/configs/train.json",
        "bundle/models/model.pt",
    } <= artifacts
    history = {metric.step: metric.value for metric in client.get_metric_history(run_id, "val/mean_dice")}
    assert metrics["best/mean_dice"] == max(history.values())


def test_the_model_in_mlflow_predicts_as_the_one_in_the_run(run_bundle, only_run, tmp_path):
    import mlflow

    workflow = run_bundle("training", "train.json", epochs=1)
    client, tracked = mlflow_run(tmp_path, only_run())
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    (model,) = client.search_logged_models([tracked.info.experiment_id])
    loaded = mlflow.pytorch.load_model(model.model_uri)
    network = workflow.parser.get_parsed_content("network_def").eval()
    for size in ((1, 1, 32, 32), (3, 1, 48, 40)):  # a crop of the training; an image of another size
        image = torch.randn(size)
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), network(image))


def test_a_compiled_network_trains_and_leaves_plain_weights(run_bundle, only_run):
    run_bundle("training", "train.json", epochs=1, **{"compile": True})
    assert not any("_orig_mod" in name for name in weights(only_run()))


def test_early_stopping(run_bundle, only_run):
    # A network that learns nothing has its best epoch first.
    run_bundle("training", "train.json", epochs=20, patience=3, **{"optimizer#lr": 0.0, "network_def#norm": None})
    state = last(only_run())
    assert state["best"]["epoch"] == 1
    assert state["trainer"]["epoch"] == 4


def test_validation_every_n_epochs(run_bundle, only_run):
    run_bundle("training", "train.json", epochs=5, val_interval=2)
    validated = [row["epoch"] for row in last(only_run())["trainer"]["history"] if "val/mean_dice" in row]
    assert validated == [2, 4]


def test_accumulated_gradients_equal_those_of_a_larger_batch(run_bundle, tmp_path):
    # Without augmentation and with a norm per image, two halves of a batch give the gradient of the whole.
    options = {"epochs": 1, "augmentation": [], "crops_per_case": 4, "optimizer": sgd(), "network_def#norm": "instance"}
    run_bundle("training", "train.json", run_name="large", batch_size=4, **options)
    run_bundle("training", "train.json", run_name="halves", batch_size=2, accumulation_steps=2, **options)
    for key, value in weights(tmp_path / "runs" / "large").items():
        torch.testing.assert_close(weights(tmp_path / "runs" / "halves")[key], value, rtol=1e-4, atol=1e-5)


def sgd():
    return {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.05}


def test_the_schedule_lowers_the_rate_epoch_by_epoch(run_bundle, only_run):
    run_bundle("training", "train.json", epochs=5, learning_rate=0.01)
    rates = [row["train/learning_rate"] for row in last(only_run())["trainer"]["history"]]
    # One epoch of warm-up at a tenth, then half a cosine from epoch 1 to 5: cos(0), cos(pi/4), cos(pi/2), cos(3 pi/4).
    expected = [0.001, *(0.005 * (1 + math.cos(math.pi * step / 4)) for step in range(4))]
    assert rates == pytest.approx(expected)


def test_a_label_that_names_classes_keeps_them_all(run_bundle, only_run, discs, tmp_path):
    folder = shutil.copytree(discs, tmp_path / "data")
    content = json.loads((folder / "discs.json").read_text())
    content |= {"label_kind": "classes", "classes": ["background", "first", "second"]}
    (folder / "discs.json").write_text(json.dumps(content))
    options = {"dataset_dir": str(folder), "data_list": str(folder / "discs.json"), "class_names": content["classes"]}
    run_bundle("training", "train.json", epochs=1, **options)
    scores = json.loads((only_run() / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert scores["dice/second"]["cases"] == 3, "the truth has the class in every validation case"


def test_the_readmes_way_to_data_of_your_own(run_bundle, only_run, discs, tmp_path):
    """The two commands that README.md shows, with nothing but the size of the training added."""
    readme = (UNET.parents[1] / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("python -m pipeline datalist folders my_data")]
    for kind in ("images", "labels"):
        shutil.copytree(discs / kind, tmp_path / "my_data" / kind)
    (tmp_path / "data_lists").mkdir()
    main(line.split()[3:])
    run_bundle("training", "train.json", data_list="data_lists/my_data.json", dataset_dir="my_data", epochs=1)
    assert (only_run() / "models" / "model.pt").is_file()
