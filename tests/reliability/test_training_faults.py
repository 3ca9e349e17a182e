"""Faults in the course of a training: it stops with a word or goes on, and in the end nothing is lost."""

import shutil
import signal
import socket

import pytest
import torch
from mlflow.tracking import MlflowClient
from places import disk, fill, saving_fills_the_disk
from run_files import last, mlflow_run, same, steps, weights, without_times
from servers import absent, running, silent
from training_process import WITHOUT_BUNDLE, BeginTogether, DieAfterEpoch, SignalInSave, TrainingProcess

from pipeline import feeder, mlflow_store, tracking
from pipeline.errors import InputError
from pipeline.run_folder import read_facts
from pipeline.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

# Before its first validation each epoch's weights are the best that a training knows, and are saved.
THREE = {"epochs": 3, "val_interval": 9}


@pytest.fixture(scope="module")
def undisturbed(discs, empty_store, tmp_path_factory):
    """The folder of a training of three epochs that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    shutil.copyfile(empty_store, folder / "mlflow.db")
    options = {**THREE, "run_name": "whole", **{key: False for key in WITHOUT_BUNDLE}}
    process = TrainingProcess(folder, discs, options, environment=store)
    assert process.status() == 0, process.log.read_text()
    return folder / "runs" / "whole"


def is_as(run, whole):
    """Whether a run came to what the undisturbed one came to, to the last bit, and left nothing half."""
    return (
        same(weights(run), weights(whole))
        and same(without_times(last(run)), without_times(last(whole)))
        and not list(run.rglob(".tmp-*"))
    )


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def runs_of(tmp_path):
    """The runs of the store by name."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["last.pt", "model.pt"])
def test_the_disk_gets_full_while_a_training_saves(name, run_bundle, undisturbed, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "a"
    with monkeypatch.context() as patch:
        saving_fills_the_disk(patch, name, number=2)
        with pytest.raises(InputError) as caught:
            run_bundle("training", "train.json", run_name="a", **THREE)
    assert caught.value.reason == "disk full"
    assert caught.value.file.endswith(f"runs/a/{'models' if name == 'model.pt' else 'checkpoints'}/{name}")
    assert "free space on this disk" in caught.value.remedy
    assert last(run)["trainer"]["epoch"] == (1 if name == "last.pt" else 2)
    assert weights(run).keys() == weights(undisturbed).keys()
    assert not list(run.rglob(".tmp-*"))
    _, tracked = mlflow_run(tmp_path, run)
    assert tracked.info.status == "FAILED"
    assert "disk full" in tracked.data.tags["error"]
    run_bundle("training", "train.json", run_name="a", resume=True, **THREE)
    assert is_as(run, undisturbed)
    assert steps(tmp_path, run, "train/loss") == [1, 2, 3]
    assert mlflow_run(tmp_path, run)[1].info.status == "FINISHED"


def test_a_disk_that_is_really_full_keeps_the_best_model_and_closes_the_run(run_bundle, tmp_path, monkeypatch):
    from pipeline.handlers import checkpoints

    (tmp_path / "disk").mkdir()
    save, kept = checkpoints.save_tensors, {}
    with disk(tmp_path / "disk", "size=4m") as small:
        run = small / "runs" / "a"

        def save_on_a_full_disk(file, content):
            if file.name == "model.pt" and file.exists():
                kept.update(contents(run / "models"))
                fill(small, leave=1000)  # no room for the weights, and none for the journal's next lines
            save(file, content)

        monkeypatch.setattr(checkpoints, "save_tensors", save_on_a_full_disk)
        with pytest.raises(InputError, match=r"model\.pt': disk full\. Remedy: free space"):
            run_bundle("training", "train.json", run_name="a", output_dir=str(small / "runs"), **THREE)
        assert len(kept) == 1
        assert contents(run / "models") == kept
        assert last(run)["trainer"]["epoch"] == 2
        _, tracked = mlflow_run(tmp_path, run)
    assert tracked.info.status == "FAILED"
    assert "disk full" in tracked.data.tags["error"]


# --- the same command again, and a typing mistake ---------------------------------------------------------------------


def test_the_same_command_again_overwrites_no_run(run_bundle, undisturbed, tmp_path):
    runs = shutil.copytree(undisturbed.parent, tmp_path / "runs")
    before = contents(runs / "whole")
    with pytest.raises(InputError, match=r"run .*whole' exists, and a run is never overwritten.*--resume true"):
        run_bundle("training", "train.json", run_name="whole", **THREE)
    for _ in range(2):  # in one second, perhaps
        run_bundle("training", "train.json", epochs=1, **WITHOUT_BUNDLE)
    assert len(list(runs.iterdir())) == 3
    assert {file: content for file, content in contents(runs).items() if file in before} == before


def test_a_mistyped_override_is_refused(run_bundle, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"unknown setting 'epocs'\. Remedy: did you mean epochs\?"):
        run_bundle("training", "train.json", epocs=50)
    assert set(tmp_path.iterdir()) == before


# --- the tracking server ----------------------------------------------------------------------------------------------


@pytest.fixture
def wait(monkeypatch):
    """Return a function that says how many seconds a server is waited for, wherever it is."""
    monkeypatch.setattr(feeder.Feeder.__init__, "__defaults__", (lambda: True, 0.05))

    def set_(seconds):
        for name in ("OPEN_WITHIN", "FLUSH_WITHIN", "STALLED_AFTER"):
            monkeypatch.setattr(tracking, name, seconds)
        monkeypatch.setattr(mlflow_store, "ANSWER_WITHIN", seconds)

    return set_


@pytest.mark.parametrize("server", ["refuses", "hangs"])
def test_a_server_that_is_down_at_the_start_gets_the_run_later(server, run_bundle, tmp_path, wait, caplog):
    wait(0.3)
    run, options = tmp_path / "runs" / "a", {"epochs": 2, "run_name": "a", **WITHOUT_BUNDLE}
    if server == "refuses":
        run_bundle("training", "train.json", **options, **{"mlflow#uri": absent()})
    else:
        with silent() as uri:
            run_bundle("training", "train.json", **options, **{"mlflow#uri": uri})
    assert last(run)["trainer"]["epoch"] == 2
    assert caplog.text.count("MLflow does not answer, which holds up nothing") == 1
    assert "python -m pipeline sync runs/a" in caplog.text
    (done,) = sync([run], uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert done.status == "FINISHED"
    tracked = runs_of(tmp_path)["a"]
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["epochs"] == "2"
    assert steps(tmp_path, run, "train/loss") == [1, 2]
    assert not (run / "mlflow.journal").exists()


@pytest.mark.parametrize("way", ["dies", "falls silent"])
def test_a_server_that_is_lost_in_the_middle_gets_the_rest_later(way, run_bundle, tmp_path, wait, monkeypatch):
    from pipeline.handlers.mlflow_run import MLflowRun

    track, run = MLflowRun._epoch, tmp_path / "runs" / "a"
    wait(60)
    with running() as server:

        def lose(handler, engine):
            track(handler, engine)
            if engine.state.epoch == 1:
                handler.tracking.flush()
                if way == "dies":
                    server.shutdown()
                    server.server_close()
                else:
                    server.awake.clear()
                wait(0.3)

        monkeypatch.setattr(MLflowRun, "_epoch", lose)
        options = {"epochs": 3, "run_name": "a", "mlflow#uri": server.uri, **WITHOUT_BUNDLE}
        run_bundle("training", "train.json", **options)
        known = server.steps("train/loss")
    assert known == [1]
    assert last(run)["trainer"]["epoch"] == 3
    assert (run / "mlflow.journal").exists()
    wait(60)
    with running() as again:  # at its new address
        (done,) = sync([run], uri=again.uri)
        assert done.status == "FINISHED"
        assert set(again.steps("train/loss")) - set(known) == {2, 3}
        assert [body["status"] for body in again.sent("runs/update")][-1] == "FINISHED"
    assert not (run / "mlflow.journal").exists()


# --- kills ------------------------------------------------------------------------------------------------------------


def test_killed_while_it_saves_the_best_model_a_training_keeps_the_earlier_one(
    run_bundle, undisturbed, discs, tmp_path
):
    # Copies the store, and says where it is.
    with pytest.raises(InputError):
        run_bundle("training", "train.json", epochs=0)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    sabotage = SignalInSave(signal.SIGKILL, "model.pt", 2)
    killed = TrainingProcess(tmp_path, discs, {**THREE, "run_name": "a"}, environment=store, sabotage=sabotage)
    assert killed.status() == -signal.SIGKILL, killed.log.read_text()
    run = tmp_path / "runs" / "a"
    assert len(list((run / "models").glob(".tmp-*"))) == 1
    assert weights(run).keys() == weights(undisturbed).keys(), "the first epoch's model is whole"
    assert runs_of(tmp_path)["a"].info.status == "RUNNING", "nobody could say otherwise"
    run_bundle("training", "train.json", epochs=1, run_name="b", **WITHOUT_BUNDLE)
    tracked = runs_of(tmp_path)
    assert {name: entry.info.status for name, entry in tracked.items()} == {"a": "KILLED", "b": "FINISHED"}
    assert steps(tmp_path, tmp_path / "runs" / "b", "train/loss") == [1]
    assert 1 in steps(tmp_path, run, "train/loss")
    run_bundle("training", "train.json", run_name="a", resume=True, **THREE)
    assert is_as(run, undisturbed)
    assert steps(tmp_path, run, "train/loss") == [1, 2, 3]
    assert {name: entry.info.status for name, entry in runs_of(tmp_path).items()} == {"a": "FINISHED", "b": "FINISHED"}


def test_a_training_that_crashed_is_failed_and_the_next_one_is_a_run_of_its_own(run_bundle, tmp_path):
    with pytest.raises(InputError, match="loss is nan"):
        run_bundle("training", "train.json", run_name="a", **{"loss#class_weight": [float("nan"), 1.0]})
    assert runs_of(tmp_path)["a"].info.status == "FAILED"
    run_bundle("training", "train.json", epochs=1, run_name="b", **WITHOUT_BUNDLE)
    tracked = runs_of(tmp_path)
    assert {name: run.info.status for name, run in tracked.items()} == {"a": "FAILED", "b": "FINISHED"}
    assert "train/loss" not in tracked["a"].data.metrics
    assert "error" not in tracked["b"].data.tags


def test_a_resumed_training_remembers_its_best_metric(run_bundle, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "runs" / "whole")
    state, best = last(run), (run / "models" / "model.pt").read_bytes()
    state["best"] = {"metric": 2.0, "epoch": 1}  # better than any epoch can be
    torch.save(state, run / "checkpoints" / "last.pt")
    run_bundle("training", "train.json", epochs=4, run_name="whole", resume=True, **WITHOUT_BUNDLE)
    assert last(run)["trainer"]["epoch"] == 4
    assert last(run)["best"] == {"metric": 2.0, "epoch": 1}
    assert (run / "models" / "model.pt").read_bytes() == best


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_trainings_that_begin_at_once_on_a_new_store_are_two_runs(discs, tmp_path):
    begin = BeginTogether(2)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    both = [
        TrainingProcess(tmp_path, discs, {"epochs": 1, "run_name": name}, environment=store, sabotage=begin)
        for name in ("a", "b")
    ]
    assert [process.status() for process in both] == [0, 0], both[0].log.read_text()
    tracked = runs_of(tmp_path)
    assert {name: run.info.status for name, run in tracked.items()} == {"a": "FINISHED", "b": "FINISHED"}
    for name, run in tracked.items():
        assert run.info.run_id == read_facts(tmp_path / "runs" / name)["mlflow_run_id"]
        assert steps(tmp_path, tmp_path / "runs" / name, "train/loss") == [1]


def test_a_rank_that_dies_ends_the_training_and_costs_no_epoch(discs, empty_store, tmp_path):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    ranks = [
        TrainingProcess(
            tmp_path,
            discs,
            {"epochs": 3, "run_name": "a"},
            files=("train.json", "multi_gpu.json"),
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            sabotage=DieAfterEpoch(2) if rank else None,
        )
        for rank in range(2)
    ]
    assert ranks[1].status() == -signal.SIGKILL, ranks[1].log.read_text()
    assert ranks[0].status() == 1
    run = tmp_path / "runs" / "a"
    assert last(run)["trainer"]["epoch"] == 2
    assert weights(run)
    tracked = runs_of(tmp_path)["a"]
    assert tracked.info.status == "FAILED"
    assert "rank 1 of this training" in tracked.data.tags["error"]
    assert "continue with --resume true --run_name a" in tracked.data.tags["error"]
