"""Whole sweeps of real trainings, small ones."""

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from servers import absent
from sweep_files import POINTS, InsteadOfTraining, score_of, small, write_sweep

from pipeline import figures
from pipeline.errors import InputError
from pipeline.feeder import Feeder
from pipeline.sweeps import sweep as sweep_module
from pipeline.sweeps.pruning import Pruning
from pipeline.sweeps.sweep import run_sweep
from pipeline.sweeps.trial import SweepTrial
from pipeline.sync import sync
from pipeline.tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def leave_out_what_takes_long(patch):
    """Pictures and the MLflow model are most of a small training's time, and have tests of their own."""
    patch.setattr(Tracking, "model", lambda *arguments: None)
    patch.setattr(figures, "save", lambda figure, file, dpi=0: Path(file).write_bytes(b""))


@pytest.fixture
def sweep(place, discs, monkeypatch):
    """Return `sweep(workers=1, trials=None, overrides=(), **content)`, which runs one and returns its rows."""
    leave_out_what_takes_long(monkeypatch)

    def run(workers=1, trials=None, **content):
        with open(run_sweep(file_of(place, discs, **content), workers, trials), newline="") as stream:
            return list(csv.DictReader(stream))

    return run


def file_of(place, discs, overrides=(), **content):
    content = {"space": POINTS} | content
    given = {key: value for key, value in small(discs, **dict(overrides)).items() if key not in content["space"]}
    return write_sweep(place, overrides=given, **content)


@pytest.fixture
def compared(monkeypatch):
    """What was handed to the page that compares runs."""
    calls = []
    monkeypatch.setattr("pipeline.compare.compare", lambda **arguments: calls.append(arguments))
    return calls


def runs_of(place, role):
    """The MLflow runs of a role, by name."""
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("discs").experiment_id
    found = client.search_runs([experiment], f"tags.`sweep.role` = '{role}' AND tags.sweep = 'tiny'")
    return {run.info.run_name: run for run in found}


def test_a_grid_over_an_overlay_and_a_number_of_which_some_fail(sweep, place, compared, capsys):
    # With a rate of 1e30 the first step makes the weights infinite, and the loss of the second is no number.
    rows = sweep(space={"overlay": [None, "loss_ce"], "optimizer#lr": [0.01, 1e30]})
    assert [(row["overlay"], row["optimizer#lr"]) for row in rows] == [
        ("none", "0.01"),
        ("none", "1e+30"),
        ("loss_ce", "0.01"),
        ("loss_ce", "1e+30"),
    ]
    assert [row["state"] for row in rows] == ["complete", "failed", "complete", "failed"]
    assert all("the loss is" in rows[number]["reason"] for number in (1, 3))
    assert rows[0]["val/mean_dice"] != rows[2]["val/mean_dice"]

    ((_, parent),) = runs_of(place, "sweep").items()
    trials = runs_of(place, "trial")
    assert list(sorted(trials)) == ["tiny-000", "tiny-001", "tiny-002", "tiny-003"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}
    assert [trials[name].info.status for name in sorted(trials)] == ["FINISHED", "FAILED"] * 2
    third = trials["tiny-002"]
    assert third.data.params["overlay"] == "loss_ce"
    assert third.data.params["optimizer/lr"] == "0.01"
    assert json.loads(third.data.tags["sweep.params"]) == {"overlay": "loss_ce", "optimizer#lr": 0.01}
    assert third.data.tags["sweep.trial"] == "2"
    assert rows[2]["mlflow_run_id"] == third.info.run_id
    assert third.data.metrics["best/mean_dice"] == pytest.approx(float(rows[2]["val/mean_dice"]))
    assert "the loss is" in trials["tiny-003"].data.tags["error"]

    best = max((0, 2), key=lambda number: float(rows[number]["val/mean_dice"]))
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sweep.best_trial"] == str(best)
    assert parent.data.metrics["val/mean_dice"] == pytest.approx(float(rows[best]["val/mean_dice"]))
    assert (parent.data.metrics["trials/complete"], parent.data.metrics["trials/failed"]) == (2, 2)
    (call,) = compared
    assert (call["runs"], call["metric"]) == ([parent.info.run_id], "val/mean_dice")
    written = json.loads((place / "runs" / "tiny" / "tiny-002" / "configs" / "train.json").read_text())
    assert written["loss"]["lambda_dice"] == 0.0
    assert "sweep" not in json.dumps(written["train"])  # of the sweep only MLflow knows: a run's bundle stands alone
    assert "2 complete, 0 pruned, 2 failed" in capsys.readouterr().out


def test_folds_are_runs_beneath_a_trial_and_what_is_pruned_in_the_first_is_not_trained_in_the_others(
    sweep, place, compared
):
    content = {"folds": [0, 1], "pruner": {"median": {"n_startup_trials": 1}}, "overrides": {"epochs": 2}}
    rows = sweep(space={"learning_rate": [0.02, 1e-9]}, **content)
    assert [row["state"] for row in rows] == ["complete", "pruned"]
    assert [row["epochs"] for row in rows] == ["2", "1"]
    folds, trials = runs_of(place, "fold"), runs_of(place, "trial")
    assert sorted(folds) == ["tiny-000-fold-0", "tiny-000-fold-1", "tiny-001-fold-0"]
    for name, run in folds.items():
        assert run.data.tags["mlflow.parentRunId"] == trials[name[:8]].info.run_id
        assert run.data.tags["sweep.fold"] == run.data.params["fold"] == name[-1]
        assert run.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {
        run.info.run_id for run in runs_of(place, "sweep").values()
    }
    assert folds["tiny-001-fold-0"].data.tags["pruned"] == "1"
    assert trials["tiny-001"].data.tags["pruned"] == "1"
    reports = place / "runs" / "tiny"
    reports = {name: (reports / name / "evaluation" / "validation" / "report.html").read_text() for name in folds}
    words = "after epoch 1: the trial was not worth more"
    assert [name for name, report in reports.items() if words in report] == ["tiny-001-fold-0"]
    first = trials["tiny-000"]
    assert "fold" not in first.data.params
    assert first.data.params["learning_rate"] == "0.02"
    assert first.data.tags["data_list.digest"] == folds["tiny-000-fold-0"].data.tags["data_list.digest"]
    pooled = place / "runs" / "tiny" / "tiny-000" / "evaluation" / "validation" / "cases.csv"
    with open(pooled, newline="") as stream:
        scores = {row["case"]: float(row["mean_dice"]) for row in csv.DictReader(stream)}
    assert sorted(scores) == [f"disc_{number}" for number in range(6)]
    assert first.data.metrics["val/mean_dice"] == pytest.approx(sum(scores.values()) / 6)
    assert float(rows[0]["val/mean_dice"]) == pytest.approx(sum(scores.values()) / 6)
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (found,) = [
        file.path for file in client.list_artifacts(first.info.run_id, "evaluation/validation") if "cases" in file.path
    ]
    assert found == "evaluation/validation/cases.csv"


def run_and_be_killed(file, folder, uri):
    """Run a sweep that is killed in its second epoch, after the checkpoint of the first."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with pytest.MonkeyPatch.context() as patch:
        leave_out_what_takes_long(patch)
        look = Pruning._look

        def look_and_be_killed(self, engine):
            look(self, engine)
            if engine.state.epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(Pruning, "_look", look_and_be_killed)
        run_sweep(file)


def test_a_sweep_that_was_killed_goes_on_by_itself_and_comes_to_the_same(sweep, place, discs, compared):
    content = {"space": {"learning_rate": [0.02, 0.01]}, "overrides": {"epochs": 2}}
    context = multiprocessing.get_context("forkserver")  # a fork of pytest itself might inherit a lock that is held
    context.set_forkserver_preload(["pipeline.sweeps.sweep"])
    arguments = (str(file_of(place, discs, **content)), str(place), os.environ["MLFLOW_TRACKING_URI"])
    process = context.Process(target=run_and_be_killed, args=arguments)
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    run = place / "runs" / "tiny" / "tiny-000"
    assert (run / "checkpoints" / "last.pt").is_file()
    before = json.loads((run / "run.json").read_text())["mlflow_run_id"]

    killed = sweep(**content)
    whole = sweep(name="whole", **content)
    assert [row["val/mean_dice"] for row in killed] == [row["val/mean_dice"] for row in whole]
    assert [row["trial"] for row in killed] == ["0", "1"]
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    trials = runs_of(place, "trial")
    assert trials["tiny-000"].info.run_id == before  # it went on from its checkpoint
    assert [metric.step for metric in client.get_metric_history(before, "train/loss")] == [1, 2]
    statuses = {run.info.status for role in ("sweep", "trial") for run in runs_of(place, role).values()}
    assert (len(trials), len(runs_of(place, "sweep")), statuses) == (2, 1, {"FINISHED"})
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place}/runs/tiny/study.db")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.slow
def test_two_workers_come_to_what_one_comes_to(sweep, place, compared, capfd):
    content = {"space": {"learning_rate": [0.02, 0.01, 0.005]}}
    shared = sweep(workers=2, **content)
    assert len([line for line in capfd.readouterr().out.splitlines() if "/3  trial" in line]) == 3
    alone = sweep(name="alone", **content)
    assert [row["val/mean_dice"] for row in shared] == [row["val/mean_dice"] for row in alone]
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place}/runs/tiny/study.db")
    workers = {trial.user_attrs["process"]["pid"] for trial in study.trials}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert len(runs_of(place, "trial")) == 3


@pytest.mark.slow
def test_two_workers_prune_by_hyperband(sweep, place, compared):
    # Optuna draws a trial's bracket by the sweep's name and its number: 0, 1 and 0 here. In the first bracket the best
    # third goes on after epoch 1, in the second one after epoch 3.
    pruner = {"hyperband": {"min_resource": 1, "max_resource": 9, "reduction_factor": 3}}
    space = {"learning_rate": [0.02, 0.01, 1e-9]}
    rows = sweep(workers=2, space=space, pruner=pruner, overrides={"epochs": 9})
    assert [(row["state"], row["epochs"]) for row in rows] == [("complete", "9"), ("complete", "9"), ("pruned", "1")]
    assert runs_of(place, "trial")["tiny-002"].data.tags["pruned"] == "1"


def test_a_complete_sweep_trains_nothing_and_says_again_what_it_came_to(sweep, place, monkeypatch, compared):
    training = InsteadOfTraining().install(monkeypatch)
    first = sweep(trials=2)
    assert sweep(trials=2) == first
    assert training.trained == [0, 1]
    assert [float(row["val/mean_dice"]) for row in sweep(trials=3)] == [
        score_of({"batch_size": size, "learning_rate": rate}) for size, rate in [(1, 0.1), (1, 0.2), (2, 0.1)]
    ]
    assert training.trained == [0, 1, 2]
    assert len(runs_of(place, "sweep")) == 1


def test_a_sweep_of_which_every_trial_fails_is_an_error_with_the_reasons(sweep, place, monkeypatch, compared):
    InsteadOfTraining({number: InputError(f"wrong {number}") for number in range(2)}).install(monkeypatch)
    with pytest.raises(InputError, match="no trial of the sweep 'tiny' came to an end: wrong 0; wrong 1"):
        sweep(trials=2)
    assert [run.info.status for run in runs_of(place, "sweep").values()] == ["FAILED"]
    assert [run.data.tags["error"] for run in runs_of(place, "trial").values()] == ["wrong 1", "wrong 0"]
    assert compared == []


def test_a_sweep_that_is_stopped_says_how_it_goes_on(sweep, place, monkeypatch, caplog, compared):
    InsteadOfTraining({1: KeyboardInterrupt()}).install(monkeypatch)
    with pytest.raises(SystemExit, match="130"):
        sweep(trials=2)
    assert "the same command continues the sweep" in caplog.text
    (parent,) = runs_of(place, "sweep").values()
    assert (parent.info.status, parent.data.metrics["trials/complete"]) == ("KILLED", 1)
    assert [row["state"] for row in sweep(trials=2)] == ["complete", "complete"]
    (parent,) = runs_of(place, "sweep").values()
    assert (parent.info.status, parent.data.metrics["trials/complete"]) == ("FINISHED", 2)
    best = score_of({"batch_size": 1, "learning_rate": 0.2})
    assert parent.data.metrics["best/mean_dice"] == pytest.approx(best), "that of the trial which came after the stop"


@pytest.mark.parametrize("place_of_stop", ["write_table", "_scores_of"])
def test_a_sweep_that_is_stopped_at_its_end_is_closed(sweep, place, monkeypatch, compared, place_of_stop):
    InsteadOfTraining().install(monkeypatch)

    def stop(*arguments):
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, place_of_stop, stop)
        with pytest.raises(SystemExit, match="143"):
            sweep(trials=1)
    assert [run.info.status for run in runs_of(place, "sweep").values()] == ["KILLED"]
    assert [row["state"] for row in sweep(trials=1)] == ["complete"]
    assert [run.info.status for run in runs_of(place, "sweep").values()] == ["FINISHED"]


def test_a_sweep_that_is_stopped_while_its_run_opens_is_closed(sweep, place, monkeypatch, compared):
    InsteadOfTraining().install(monkeypatch)
    wait = Tracking._wait_for_store

    def wait_and_be_stopped(tracking, is_new):
        wait(tracking, is_new)
        raise SystemExit(143)

    monkeypatch.setattr(Tracking, "_wait_for_store", wait_and_be_stopped)
    with pytest.raises(SystemExit, match="143"):
        sweep(trials=1)
    assert [run.info.status for run in runs_of(place, "sweep").values()] == ["KILLED"]


@pytest.mark.filterwarnings("ignore:Query string argument")
def test_a_password_stands_in_no_copy_of_the_sweep_file(sweep, place, monkeypatch, compared):
    InsteadOfTraining().install(monkeypatch)
    storage = f"sqlite:///{place}/runs/tiny/study.db?password=s3cret"
    sweep(trials=1, storage=storage)
    (parent,) = runs_of(place, "sweep").values()
    artifact = MlflowClient().download_artifacts(parent.info.run_id, "sweep.yaml")
    for copy in (Path(artifact), place / "runs" / "tiny" / "sweep.yaml"):
        assert "study.db?password=***" in copy.read_text()


def test_a_page_that_cannot_be_made_is_no_harm(sweep, monkeypatch, caplog):
    InsteadOfTraining().install(monkeypatch)

    def compare(**arguments):
        raise OSError("no space")

    monkeypatch.setattr("pipeline.compare.compare", compare)
    assert len(sweep(trials=1)) == 1
    assert "the trials were not compared: OSError: no space" in caplog.text


# --- without a server -------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Runs that give up a server at the second silence of a tenth of a second."""
    monkeypatch.setattr(Feeder.close, "__defaults__", (0.1,))


def family_of(uri):
    """What a store has of the sweep: a role, an end and the name of the run above, by each run's own name."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("discs").experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs), "each once"
    told = [(run, run.data.tags) for run in runs]
    return {
        run.info.run_name: (tags["sweep.role"], run.info.status, names.get(tags.get("mlflow.parentRunId")))
        for run, tags in told
    }


def metrics_of(uri, name):
    client = MlflowClient(uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("discs").experiment_id], f"attributes.run_name = '{name}'"
    )
    return run.data.metrics


TRIALS = {f"tiny-00{number}": ("trial", "FINISHED", "tiny") for number in range(2)}


@pytest.mark.parametrize("way", ["the same command", "sync"])
def test_a_sweep_without_any_server_is_written_later(sweep, place, monkeypatch, caplog, compared, impatient, way):
    training, store = InsteadOfTraining().install(monkeypatch), os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", absent())
    first = sweep(trials=2, folds=[0, 1])
    assert compared == []
    assert "the trials were not compared: InputError: no MLflow server has answered at http" in caplog.text
    assert "To do it later: the sweep's command again, or python -m pipeline compare --experiment discs" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    if way == "sync":
        sync(uri=store, output_dir=place / "runs")
    else:
        assert sweep(trials=2, folds=[0, 1]) == first
        assert [call["metric"] for call in compared] == ["val/mean_dice"]
    assert family_of(store) == {"tiny": ("sweep", "FINISHED", None), **TRIALS}
    for number, row in enumerate(first):
        assert metrics_of(store, f"tiny-00{number}")["val/mean_dice"] == pytest.approx(float(row["val/mean_dice"]))
    assert metrics_of(store, "tiny")["trials/complete"] == 2
    assert not list(place.glob("runs/**/mlflow*.journal"))
    assert training.trained == [0, 0, 1, 1]
    sweep(trials=3, folds=[0, 1])
    assert len(family_of(store)) == 4, "the run of the sweep is found again"
    assert metrics_of(store, "tiny")["trials/complete"] == 3


@pytest.mark.slow
def test_a_sweep_is_whole_after_an_outage_in_its_middle(
    sweep, place, monkeypatch, mlflow_server, compared, impatient, caplog
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    mlflow_server.start()
    train = SweepTrial._train

    def train_and_lose_the_server(*arguments, **options):
        train(*arguments, **options)
        mlflow_server.kill()

    content = {"space": {"learning_rate": [0.02, 0.01]}, "folds": [0, 1]}
    with monkeypatch.context() as patch:
        patch.setattr(SweepTrial, "_train", train_and_lose_the_server)
        rows = sweep(**content)
    assert "the trials were not compared" in caplog.text
    mlflow_server.start()
    assert sweep(**content) == rows
    folds = {f"{name}-fold-{fold}": ("fold", "FINISHED", name) for name in TRIALS for fold in (0, 1)}
    assert family_of(mlflow_server.uri) == {"tiny": ("sweep", "FINISHED", None), **TRIALS, **folds}
    for number, row in enumerate(rows):
        for name in (f"tiny-00{number}", f"tiny-00{number}-fold-1"):
            assert "val/mean_dice" in metrics_of(mlflow_server.uri, name)
        pooled = metrics_of(mlflow_server.uri, f"tiny-00{number}")["val/mean_dice"]
        assert pooled == pytest.approx(float(row["val/mean_dice"]))
    assert not list(place.glob("runs/**/mlflow*.journal"))
    assert len(compared) == 1


def test_the_sweeps_own_run_has_the_scores_of_its_best_trial_whatever_the_metric(sweep, place, compared):
    (row,) = sweep(space={"learning_rate": [0.02]}, metric="val/mean_iou")
    (parent,), (trial,) = runs_of(place, "sweep").values(), runs_of(place, "trial").values()
    ours, theirs = parent.data.metrics, trial.data.metrics
    assert ours["best/mean_dice"] == pytest.approx(theirs["best/mean_dice"]), "by which tables are sorted"
    assert ours["best/mean_iou"] == ours["val/mean_iou"] == pytest.approx(float(row["val/mean_iou"]))
    assert ours["val/dice/cell"] == pytest.approx(theirs["val/dice/cell"])


def test_one_process_at_a_time_runs_a_sweep(sweep, place, discs, monkeypatch):
    InsteadOfTraining().install(monkeypatch)
    held = sweep_module.read_sweep(file_of(place, discs))
    with sweep_module._only_one(held), pytest.raises(InputError, match="'tiny' is being run by another process"):
        sweep(trials=1)


def test_a_sweep_needs_a_worker(tmp_path):
    with pytest.raises(InputError, match=r"0 workers. Remedy: give a whole number, 1 or more"):
        run_sweep(tmp_path / "sweep.yaml", workers=0)
