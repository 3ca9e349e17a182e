"""On several GPUs: nccl carries what gloo does between CPUs. Skipped where there are fewer than two."""

import os
import shutil

import pytest
import torch
from discs import small_training
from run_files import last
from torchrun import Torchrun, command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are fewer than two GPUs"),
]
FILES = ("train.json", "multi_gpu.json")


@pytest.fixture
def options(discs, empty_store, tmp_path, monkeypatch):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    given = {**small_training(discs), "epochs": 3, "batch_size": 4, "crops_per_case": 2, "precision": "float32"}
    del given["device"]  # each rank has its own
    return given


def test_two_gpus_follow_the_loss_of_one(options, tmp_path, run_bundle):
    run_bundle("training", "train.json", **options, device="cuda:0", run_name="one")
    status, printed = Torchrun(
        tmp_path,
        2,
        command("training", *FILES, **options, run_name="two"),
        devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    ).wait()
    assert status == 0, printed[-3000:]
    curves = [
        [row["train/loss"] for row in last(tmp_path / "runs" / run)["trainer"]["history"]] for run in ("one", "two")
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-2)


def test_more_processes_than_gpus_are_refused_once(options, tmp_path):
    count = torch.cuda.device_count() + 1
    torchrun = Torchrun(
        tmp_path,
        count,
        command("training", *FILES, **{**options, "batch_size": count}),
        devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    assert torchrun.wait()[0] == 1
    (told,) = torchrun.told()
    assert f"{count} processes on this machine, which has {count - 1} GPUs" in told
