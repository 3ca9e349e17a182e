"""Settings that no run can have end a run before it begins, each with its key and what to give instead."""

import json

import pytest
import torch
from discs import UNET, small_training
from forked import Python

from pipeline.errors import InputError

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")

IMPOSSIBLE = [
    ({"epochs": 0}, "'epochs' is 0. Remedy: give a whole number, 1 or more"),
    ({"epochs": 2.5}, "'epochs' is 2.5. Remedy: give a whole number, 1 or more"),
    ({"precision": "bfloat"}, "'precision' is 'bfloat'. Remedy: choose from auto, float32, bfloat16"),
    ({"compile": "yes"}, "'compile' is 'yes'. Remedy: choose from auto, true, false"),
    ({"compile": 1}, "'compile' is '1'"),
    ({"epochs": "$1 - 2"}, "'epochs' is -1"),
    ({"seed": -1}, "'seed' is -1. Remedy: give a whole number, 0 or more"),
    ({"batch_size": 0}, "'batch_size' is 0"),
    ({"num_workers": -1}, "'num_workers' is -1"),
    ({"accumulation_steps": 0}, "'accumulation_steps' is 0"),
    ({"val_interval": 0}, "'val_interval' is 0"),
    ({"patience": "x"}, "'patience' is 'x'"),
    ({"crops_per_case": 0}, "'crops_per_case' is 0. Remedy: give a number above 0"),
    ({"crops_per_case": True}, "'crops_per_case' is True. Remedy: give a number above 0"),
    ({"learning_rate": -0.1}, "'learning_rate' is -0.1. Remedy: give a number above 0"),
    ({"device": "gpu"}, "the device 'gpu' cannot be used"),
    pytest.param({"device": "cuda"}, "the device 'cuda' cannot be used", marks=NO_CUDA),
    ({"output_dir": "a_file/runs"}, "a_file' is no folder. Remedy: give another --output_dir"),
    ({"network_def#out_channels": 5}, "'network_def#out_channels' is 5, where 'class_names' asks for 1 or 2"),
    ({"network_def#in_channels": 3}, "'network_def#in_channels' is 3, where 'in_channels' asks for 1"),
    ({"tiling#overlp": 0.5}, "takes no argument 'tiling#overlp'. Remedy: did you mean overlap?"),
    (
        {"train#dataloader#batchsize": 3},
        "takes no argument 'train#dataloader#batchsize'. Remedy: did you mean batch_size?",
    ),
    ({"network_def#_disbaled_": True}, "takes no argument 'network_def#_disbaled_'"),
    ({"tiling#overlap": 1.5}, "overlap is 1.5. Remedy: give a part of the window"),
    ({"spatial_augmentation#flip_prob": 3}, "flip_prob is 3. Remedy: give a probability from 0 to 1"),
    ({"fold": 9}, "has no fold 9. Remedy: choose one of the folds [0, 1]"),
]


@pytest.mark.parametrize(("override", "message"), IMPOSSIBLE, ids=str)
def test_an_impossible_setting_is_named_before_anything_is_written(override, message, run_bundle, tmp_path):
    (tmp_path / "a_file").write_text("")
    before = {item.name for item in tmp_path.iterdir()}
    with pytest.raises(InputError) as caught:
        run_bundle("training", "train.json", **override)
    assert message in str(caught.value)
    assert str(caught.value).count(message) == 1
    assert {item.name for item in tmp_path.iterdir()} == before


def test_channels_may_be_computed(run_bundle, only_run):
    run_bundle("training", "train.json", epochs=1, in_channels="$2 - 1")
    assert (only_run() / "models" / "model.pt").is_file()


def test_all_of_them_are_reported_together(run_bundle):
    with pytest.raises(InputError, match=r"(?s)3 problems.*'epochs'.*'seed'.*'device|3 problems.*'epochs'.*'seed'"):
        run_bundle("training", "train.json", epochs=0, seed=-1, device="gpu")


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch, run_bundle):
    # The superuser may write everywhere: what the system would answer anyone else is put in its place.
    monkeypatch.setattr("pipeline.settings.os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"nothing may be written into .*Remedy: give another --output_dir"):
        run_bundle("training", "train.json", output_dir=str(tmp_path / "runs"))


def test_a_run_name_of_digits_is_a_name(run_bundle, tmp_path):
    run_bundle("training", "train.json", run_name=7, epochs=1)
    assert (tmp_path / "runs" / "7" / "models" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("run_id", "files", "message"),
    [
        ("trainin", ["train.json"], "there is no run id 'trainin' in train.json. Remedy: did you mean training?"),
        ("training", ["train.json", "multi_gpu.json"], "'multi_gpu.json' is for processes that torchrun starts"),
    ],
    ids=["run id", "no torchrun"],
)
def test_a_command_that_cannot_begin_ends_in_one_line(run_id, files, message, discs, tmp_path):
    paths = json.dumps([str(UNET / "configs" / name) for name in files])
    small = [item for key, value in small_training(discs).items() for item in (f"--{key}", str(value))]
    small = small if "train.json" in files else []
    result = Python("-m", "monai.bundle", "run", run_id, "--config_file", paths, *small, cwd=tmp_path).wait()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
