"""A run that was stopped, killed or finished, and what --resume makes of it."""

import json
import shutil
import signal
import textwrap
import time

import pytest
import torch
from discs import UNET, small_training
from forked import Python
from mlflow.tracking import MlflowClient
from run_files import last, mlflow_run, same, steps, weights, without_times
from servers import absent

from pipeline.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_equals_never_having_stopped_bit_for_bit(run_bundle, tmp_path, workers):
    options = {"network_def#dropout": 0.3, "num_workers": workers, "val_interval": 2}
    for more in ({"run_name": "whole"}, {"run_name": "parts", **stop_after(2)}, {"run_name": "parts", "resume": True}):
        workflow = run_bundle("training", "train.json", epochs=4, **options, **more)
        workflow.parser.get_parsed_content(
            "train#dataloader"
        )._iterator = None  # ends its workers now, not when it pleases
    whole, parts = tmp_path / "runs" / "whole", tmp_path / "runs" / "parts"
    assert same(without_times(last(whole)), without_times(last(parts)))
    assert same(weights(whole), weights(parts))
    assert last(parts)["trainer"]["epoch"] == 4
    _, tracked = mlflow_run(tmp_path, parts)
    assert tracked.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    losses = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert sorted(metric.step for metric in losses) == [1, 2, 3, 4]


def stop_after(epoch):
    """Overrides that end a training in its course, as a kill between two epochs does."""
    return {"train#trainer#max_epochs": epoch}


def test_resume_keeps_the_best_metric_and_its_weights(run_bundle, tmp_path):
    run_bundle("training", "train.json", epochs=3, run_name="a")
    run = tmp_path / "runs" / "a"
    state, best = last(run), weights(run)
    state["best"] = {"metric": 2.0, "epoch": 1}  # better than any epoch can be
    torch.save(state, run / "checkpoints" / "last.pt")
    run_bundle("training", "train.json", epochs=5, run_name="a", resume=True)
    assert last(run)["best"] == {"metric": 2.0, "epoch": 1}
    assert last(run)["trainer"]["epoch"] == 5
    assert same(weights(run), best)


def test_a_run_can_be_resumed_by_the_configs_it_left(run_bundle, tmp_path):
    run_bundle("training", "train.json", epochs=1, run_name="a")
    run = tmp_path / "runs" / "a"
    run_bundle("training", run / "configs" / "train.json", epochs=2, run_name="a", resume=True)
    assert last(run)["trainer"]["epoch"] == 2
    (again,) = (tmp_path / "runs").iterdir()
    assert again == run


def test_a_changed_learning_rate_is_what_runs_what_the_config_says_and_what_mlflow_knows(run_bundle, tmp_path):
    run_bundle("training", "train.json", run_name="a", epochs=4, learning_rate=0.01, **stop_after(2))
    options = {"learning_rate": 0.001, "optimizer#weight_decay": 0.5}
    workflow = run_bundle("training", "train.json", run_name="a", resume=True, epochs=4, **options)
    run = tmp_path / "runs" / "a"
    written = json.loads((run / "configs" / "train.json").read_text())
    assert (written["learning_rate"], written["optimizer"]["weight_decay"]) == (0.001, 0.5)
    (group,) = workflow.parser.get_parsed_content("optimizer").param_groups
    assert (group["initial_lr"], group["weight_decay"]) == (0.001, 0.5)
    # One epoch of warm-up at a tenth, then half a cosine over three: cos(0) with the old rate, cos(pi/3), cos(2 pi/3).
    rates = [row["train/learning_rate"] for row in last(run)["trainer"]["history"]]
    assert rates == pytest.approx([0.001, 0.01, 0.001 * 0.75, 0.001 * 0.25])
    _, tracked = mlflow_run(tmp_path, run)
    assert tracked.data.params["learning_rate"] == "0.01"
    assert tracked.data.tags["resumed.learning_rate"] == "0.001"
    assert tracked.data.tags["resumed.optimizer/weight_decay"] == "0.5"


def contents(run):
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.rglob("*") if file.is_file()}


def test_a_finished_run_has_nothing_left_to_train_and_stays_as_it_is(run_bundle, tmp_path):
    run_bundle("training", "train.json", epochs=3, run_name="a")
    run = tmp_path / "runs" / "a"
    before, (client, tracked) = contents(run), mlflow_run(tmp_path, run)
    for epochs in (3, 2):
        with pytest.raises(
            InputError, match=f"nothing left to train: .*a' has done 3 of {epochs} epochs.*raise --epochs"
        ):
            run_bundle("training", "train.json", epochs=epochs, run_name="a", resume=True)
    assert contents(run) == before
    assert len(client.search_logged_models([tracked.info.experiment_id])) == 1
    run_bundle("training", "train.json", epochs=4, run_name="a", resume=True)
    assert last(run)["trainer"]["epoch"] == 4


def test_a_run_that_stopped_early_has_nothing_left_to_train_until_it_is_more_patient(run_bundle, tmp_path):
    # A network that learns nothing has its best epoch first.
    options = {"optimizer#lr": 0.0, "network_def#norm": None, "epochs": 20, "run_name": "a"}
    run_bundle("training", "train.json", patience=2, **options)
    with pytest.raises(InputError, match=r"has done 3 of 20 epochs and no better one came in time.*raise --patience"):
        run_bundle("training", "train.json", patience=2, resume=True, **options)
    run_bundle("training", "train.json", patience=4, resume=True, **options)
    assert last(tmp_path / "runs" / "a")["trainer"]["epoch"] == 5


def test_a_run_that_failed_before_its_first_checkpoint_gives_its_name_back(run_bundle, tmp_path):
    broken = {"loss#class_weight": [float("nan"), 1.0]}
    for resume in (False, True):
        with pytest.raises(InputError, match="loss is nan"):
            run_bundle("training", "train.json", epochs=1, run_name="a", resume=resume, **broken)
    run_bundle("training", "train.json", epochs=1, run_name="a")
    assert last(tmp_path / "runs" / "a")["trainer"]["epoch"] == 1
    with pytest.raises(InputError, match="never overwritten"):
        run_bundle("training", "train.json", epochs=1, run_name="a")


def test_resume_without_a_name_keeps_to_its_data_list(run_bundle, discs, tmp_path):
    other = shutil.copytree(discs, tmp_path / "other")
    content = json.loads((other / "discs.json").read_text())
    (other / "discs.json").write_text(json.dumps({**content, "name": "other"}))
    run_bundle("training", "train.json", epochs=1, run_name="mine")
    data = {"dataset_dir": str(other), "data_list": str(other / "discs.json")}
    run_bundle("training", "train.json", epochs=1, run_name="newer", **data)
    run_bundle("training", "train.json", epochs=2, resume=True)
    assert last(tmp_path / "runs" / "mine")["trainer"]["epoch"] == 2
    assert last(tmp_path / "runs" / "newer")["trainer"]["epoch"] == 1


def test_a_run_that_began_without_a_server_is_tracked_when_it_is_resumed_with_one(run_bundle, tmp_path, caplog):
    begin = time.monotonic()
    run_bundle("training", "train.json", epochs=2, run_name="a", **{"mlflow#uri": absent()})
    assert time.monotonic() - begin < 90
    said = [record for record in caplog.records if "MLflow" in record.getMessage()]
    assert [record.getMessage().split(", which")[0] for record in said[:1]] == ["MLflow does not answer"]
    assert "python -m pipeline sync" in said[-1].getMessage()
    run_bundle("training", "train.json", epochs=3, run_name="a", resume=True)
    assert steps(tmp_path, tmp_path / "runs" / "a", "train/loss") == [1, 2, 3]


# --- kills, of processes that are the user's own --------------------------------------------------------------------

TRAIN = """
import json, os, signal, sys, torch
from monai.bundle import ConfigWorkflow

def die():
    os.kill(os.getpid(), signal.SIGKILL)

{before}
options = json.loads(sys.argv[2])
workflow = ConfigWorkflow(sys.argv[1], workflow_type="train", run_id="training", logging_file=False, **options)
workflow.initialize()
workflow.run()
"""
IN_THE_THIRD_SAVE = """
from pipeline.handlers import checkpoints
saves = []

def save(content, file):
    saves.append(file.name.endswith("{file}"))
    real_save(content, file)
    if sum(saves) == 3 and saves[-1]:
        with open(file.name, "r+b") as stream:
            stream.truncate(100)  # the kill comes when 100 bytes are on the disk
        die()

real_save, torch.save = torch.save, save
"""
BETWEEN_CHECKPOINT_AND_MODEL = """
from pipeline.handlers import checkpoints
real_save, saves = checkpoints.save_tensors, []

def save(file, content):
    saves.append(file.name)
    if saves.count("last.pt") == 3 and file.name == "model.pt":
        die()
    real_save(file, content)

checkpoints.save_tensors = save
"""
AT_THE_VERY_END = """
from pipeline import figures
figures.curves = lambda history: die()
"""
KILLS = {
    "while the checkpoint is saved": (IN_THE_THIRD_SAVE.replace("{file}", "last.pt"), 2),
    "while the model is saved": (IN_THE_THIRD_SAVE.replace("{file}", "model.pt"), 3),
    "between the two": (BETWEEN_CHECKPOINT_AND_MODEL, 3),
    "after the last epoch": (AT_THE_VERY_END, 4),
}


def train_in_a_process(folder, before, **options):
    script = textwrap.dedent(TRAIN).replace("{before}", before)
    return Python("-c", script, UNET / "configs" / "train.json", json.dumps(options), cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(run_bundle, tmp_path, discs, moment):
    before, epoch = KILLS[moment]
    # Before the first validation each epoch's weights are the best known, and are saved.
    options = {"epochs": 4, "val_interval": 9, "output_dir": str(tmp_path / "runs")}
    run_bundle("training", "train.json", run_name="whole", **options)
    killed = train_in_a_process(tmp_path, before, **{**small_training(discs), **options, "run_name": "killed"})
    assert killed.wait().returncode == -signal.SIGKILL
    whole, run = tmp_path / "runs" / "whole", tmp_path / "runs" / "killed"
    assert last(run)["trainer"]["epoch"] == epoch
    assert len(list(run.rglob(".tmp-*"))) == ("is saved" in moment)
    run_bundle("training", "train.json", run_name="killed", resume=True, **options)
    assert same(without_times(last(whole)), without_times(last(run)))
    assert same(weights(whole), weights(run))
    assert not list(run.rglob(".tmp-*"))
    assert (run / "docs" / "README.md").is_file()
    assert steps(tmp_path, run, "train/iteration_loss") == steps(tmp_path, whole, "train/iteration_loss")
    assert steps(tmp_path, run, "train/loss") == [1, 2, 3, 4]
    _, tracked = mlflow_run(tmp_path, run)
    assert tracked.info.status == "FINISHED"
    with pytest.raises(InputError, match="nothing left to train"):
        run_bundle("training", "train.json", run_name="killed", resume=True, **options)


def test_a_terminated_run_is_killed_in_mlflow_and_can_be_resumed(run_bundle, tmp_path, discs, only_run):
    overrides = {**small_training(discs), "epochs": 2000, "output_dir": str(tmp_path / "runs")}
    process = train_in_a_process(tmp_path, "", **overrides)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 128 + signal.SIGTERM
    _, tracked = mlflow_run(tmp_path, only_run())
    assert tracked.info.status == "KILLED"
    done = last(only_run())["trainer"]["epoch"]
    run_bundle("training", "train.json", epochs=done + 1, resume=True)
    assert last(only_run())["trainer"]["epoch"] == done + 1
    assert mlflow_run(tmp_path, only_run())[1].info.status == "FINISHED"
