"""Trainings and evaluations in the processes of a real torchrun, beside the same in one process."""

import csv
import math
import os
import shutil
import signal
import time

import pytest
import yaml
from discs import small_training, write_discs
from mlflow.tracking import MlflowClient
from run_files import last, steps, weights
from torchrun import Torchrun, command
from training_process import WITHOUT_BUNDLE

from pipeline.run_folder import read_facts
from pipeline.slices import read_slices

ALL = pytest.mark.skipif(not os.environ.get("TORCHRUN_TESTS"), reason="another torchrun: TORCHRUN_TESTS=1")
SHARED = ("train.json", "multi_gpu.json")
# 5 cases, each drawn twice: two steps of 6 and 4 samples, so that three ranks have 2, 2, 2 and 2, 1, 1 of them.
LENGTH = {"epochs": 3, "batch_size": 6, "crops_per_case": 2, "precision": "float32", "learning_rate": 0.002}
LOSS_WITHIN = 1e-4  # of the loss, relative: additions in another order, over some ten steps


@pytest.fixture
def place(tmp_path, empty_store, monkeypatch):
    """A working directory with 10 cases, 5 of them to train with and 3 to validate, and an MLflow store."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    write_discs(tmp_path / "data", 10)
    return tmp_path


def options(place, **more):
    return {**small_training(place / "data"), **LENGTH, **more}


def short(place, **more):
    return {**options(place), **WITHOUT_BUNDLE, **more}


def overlay(place, name, **leaves):
    (place / f"{name}.yaml").write_text(
        yaml.safe_dump({key.replace("__", "#"): value for key, value in leaves.items()})
    )
    return place / f"{name}.yaml"


def ending(place, **how):
    wrapped = {"_target_": "torchrun.Ending", "loss": "@loss", **how}
    return overlay(place, "ending", train__trainer__loss_function__loss=wrapped)


def curve(run, name="train/loss"):
    return [row[name] for row in last(run)["trainer"]["history"]]


def rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def the_runs(place):
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return {run.info.run_name: run for run in found}


def test_a_killed_rank_and_a_restart_leave_the_run_that_one_process_leaves(place, run_bundle):
    run_bundle("training", "train.json", **options(place, run_name="alone"))
    # Iteration 4 is the second one of epoch 2: epoch 1 is in the checkpoint, what was begun is lost.
    files = (*SHARED, ending(place, rank=1, iteration=4))
    torchrun = Torchrun(place, 2, command("training", *files, **options(place)), flags=["--max-restarts=1"])
    status, printed = torchrun.wait()
    assert status == 0, printed[-5000:]

    (together,) = [run for run in (place / "runs").iterdir() if run.name != "alone"]
    alone = place / "runs" / "alone"
    assert curve(together) == pytest.approx(curve(alone), rel=LOSS_WITHIN)
    assert curve(together, "val/mean_dice") == pytest.approx(curve(alone, "val/mean_dice"), abs=1e-3)
    for name, value in weights(alone).items():
        assert weights(together)[name].numpy() == pytest.approx(value.numpy(), abs=1e-3), name

    # One rank writes, and all are seen.
    tracked = the_runs(place)
    assert {name: run.info.status for name, run in tracked.items()} == {"alone": "FINISHED", together.name: "FINISHED"}
    assert steps(place, together, "train/loss") == [1, 2, 3]
    tables = [rows(run / "evaluation" / "validation" / "cases.csv") for run in (alone, together)]
    assert [row["case"] for row in tables[1]] == [row["case"] for row in tables[0]]
    assert len(tables[0]) == 4
    slices = [read_slices((run / "evaluation" / "validation" / "slices.npz").read_bytes()) for run in (alone, together)]
    assert slices[1].keys() == slices[0].keys() == {row["case"] for row in tables[0]}
    assert (together / "evaluation" / "validation" / "worst.png").is_file()
    assert printed.count("run folder: ") == 2, "the first rank's word, before and after the restart"
    assert printed.count("INFO pipeline.handlers.stage_times") == 1
    assert printed.count("has died") == 1
    assert "torchrun starts all of them again" in printed

    # What it left is a bundle for one process.
    run_bundle("evaluating", together / "configs" / "train.json", together / "configs" / "evaluate.json")
    assert len(rows(together / "evaluation" / "test" / "cases.csv")) == 2


def test_three_ranks_evaluate_resume_and_stop_together(place, trained, run_bundle):
    run = shutil.copytree(trained, place / "trained")
    own = (str(run / "configs" / "train.json"), str(run / "configs" / "evaluate.json"))
    found = {"bundle_root": str(run), "run_name": "None", "device": "cpu"}
    run_bundle("evaluating", *own, output_dir=str(place / "one"))
    run_bundle("training", "train.json", **short(place, run_name="whole"))
    run_bundle("training", "train.json", **short(place, run_name="parted", epochs=1))
    del found["run_name"]
    spoilt = overlay(place, "spoilt", train__trainer__prepare_batch="$__import__('torchrun').spoilt_in_rank_1")
    torchrun = Torchrun(
        place,
        3,
        # Two cases for three ranks; the overlays in the other order too.
        command("evaluating", *own, str(run / "configs" / "multi_gpu.json"), **found, output_dir=place / "three"),
        command("training", *SHARED, **short(place, run_name="parted", epochs=2, resume=True)),
        command("training", *SHARED, **short(place, run_name="few", batch_size=12, crops_per_case=1, patience=1)),
        command("training", *SHARED, spoilt, **short(place, run_name="spoilt")),
    )
    status, printed = torchrun.wait()
    assert (place / "three").is_dir(), printed[-5000:]
    for name in ("cases.csv", "scores.json", "slices.npz"):
        assert (place / "three" / name).read_bytes() == (place / "one" / name).read_bytes(), name

    assert curve(place / "runs" / "parted") == pytest.approx(curve(place / "runs" / "whole")[:2], rel=LOSS_WITHIN)
    run_bundle("training", "train.json", **short(place, run_name="parted", resume=True))
    assert curve(place / "runs" / "parted") == pytest.approx(curve(place / "runs" / "whole"), rel=LOSS_WITHIN)
    assert status == 1
    (told,) = torchrun.told()
    assert f"case '{(place / 'spoilt.txt').read_text()}': the loss is nan at epoch 1, iteration 1" in told
    statuses = {name: run.info.status for name, run in the_runs(place).items()}
    assert statuses.pop("spoilt") == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}
    assert not math.isnan(curve(place / "runs" / "few")[-1])


@ALL
def test_a_restarted_training_leaves_the_bytes_of_one_that_never_stopped(place):
    files = (*SHARED, ending(place, rank=1, iteration=4))
    assert Torchrun(place, 2, command("training", *SHARED, **options(place, run_name="whole"))).wait()[0] == 0
    again = Torchrun(
        place, 2, command("training", *files, **options(place, run_name="parted")), flags=["--max-restarts=1"]
    )
    assert again.wait()[0] == 0
    for name in ("models/model.pt", "evaluation/validation/cases.csv"):
        assert (place / "runs" / "parted" / name).read_bytes() == (place / "runs" / "whole" / name).read_bytes()


@ALL
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_dead_rank_is_named_once_and_costs_no_epoch(place, lost):
    files = (*SHARED, ending(place, rank=lost, iteration=4))
    torchrun = Torchrun(place, 3, command("training", *files, **options(place, run_name="a")))
    status, printed = torchrun.wait()
    assert status == 1
    assert printed.count(f"rank {lost} of this training") == 1
    assert f"continue with --resume true{' --run_name a' if lost else ''}" in printed
    assert last(place / "runs" / "a")["trainer"]["epoch"] == 1
    if lost:
        assert the_runs(place)["a"].info.status == "FAILED"
    more = Torchrun(place, 2, command("training", *SHARED, **options(place, run_name="a", resume=True)))
    assert more.wait()[0] == 0
    assert the_runs(place)["a"].info.status == "FINISHED"
    assert read_facts(place / "runs" / "a")["completed_epoch"] == 3


@ALL
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_torchrun_leaves_a_run_that_was_killed(place, number):
    torchrun = Torchrun(place, 2, command("training", *SHARED, **options(place, run_name="a", epochs=10_000)))
    while not (place / "runs" / "a" / "checkpoints" / "last.pt").exists() and torchrun.process.poll() is None:
        time.sleep(0.1)
    torchrun.process.send_signal(number)
    status, printed = torchrun.wait()
    assert status != 0
    assert printed.count("continue with --resume true --run_name a") == 1
    assert "has died" not in printed
    assert the_runs(place)["a"].info.status == "KILLED"


@ALL
@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        (
            SHARED,
            {"batch_size": 4},
            "a batch of 4 cannot be shared among 3 processes. Remedy: --batch_size 3 or --batch_size 6",
        ),
        (("train.json",), {}, "torchrun has started several processes"),
        (SHARED, {"epocs": 4}, "did you mean epochs?"),
        (SHARED, {"run_name": "a", "resume": True}, "nothing to resume"),
    ],
    ids=["batch", "no overlay", "mistyped", "nothing to resume"],
)
def test_a_mistake_is_told_once(place, files, more, message):
    torchrun = Torchrun(place, 3, command("training", *files, **options(place, **more)))
    assert torchrun.wait()[0] == 1
    (told,) = torchrun.told()
    assert message in told
    assert not list((place / "runs").glob("*/checkpoints"))
