"""A sweep on two workers comes to what it comes to in one process, also where a worker dies."""

import csv
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import psutil
import pytest
from dask_processes import scheduler, wait_until, worker
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from sweep_files import make_sweep, score_of, small, values, write_sweep

from pipeline.cluster.opening import Place
from pipeline.cluster.tasks import Ended, WorkerDiedError
from pipeline.errors import InputError
from pipeline.sweeps import on_cluster
from pipeline.sweeps.study import Study
from pipeline.sweeps.sweep import run_sweep
from pipeline.sweeps.trial import Parent

pytest.importorskip("distributed")

LUCK = ("seconds", "mlflow_run_id", "run")


@pytest.fixture
def two_workers(tmp_path):
    with scheduler(tmp_path) as one, worker(one.address, tmp_path) as first, worker(one.address, tmp_path) as second:
        one.workers = [first.pid, second.pid]
        yield one


def table(folder):
    with open(folder / "results.csv", newline="") as stream:
        return [{key: value for key, value in row.items() if key not in LUCK} for row in csv.DictReader(stream)]


def trainings(pids):
    """The processes that train, each with the worker that has started it."""
    below = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    return [child for child in below if "pipeline.sweeps.remote_trial" in _command(child)]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill_a_worker_that_trains(workers, folder, killed):
    wait_until(lambda: trainings(workers) and list(folder.glob("*/run.json")), 120)
    training = trainings(workers)[0]
    killed += [training, training.ppid()]
    os.kill(training.ppid(), signal.SIGKILL)


def test_the_same_table_as_in_one_process_and_a_killed_worker_s_trial_again(place, empty_study, discs, two_workers):
    options = small(discs, compile=False)
    content = {"space": {"learning_rate": [0.001, 0.02]}, "overrides": options}
    run_sweep(write_sweep(place, **content))
    (place / "runs" / "tiny").rename(place / "alone")
    (place / "runs" / "tiny").mkdir()
    shutil.copyfile(empty_study, place / "runs" / "tiny" / "study.db")
    killed = []
    killer = threading.Thread(
        target=kill_a_worker_that_trains, args=(two_workers.workers, place / "runs" / "tiny", killed)
    )
    killer.start()
    run_sweep(write_sweep(place, **content), place=Place(scheduler=two_workers.address))
    killer.join()
    assert len(killed) == 2
    assert not killed[0].is_running() or killed[0].status() == psutil.STATUS_ZOMBIE
    alone = table(place / "alone")
    assert len(alone) == 2
    assert table(place / "runs" / "tiny") == alone
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}


class Workers:
    """Stand for a cluster: train at once by `score_of`, two trials at a time, and go wrong where they are told to.

    Args:
        wrong: by number of the trial, what becomes of it instead; each once.
    """

    def __init__(self, wrong=()):
        self.wrong, self.answers, self.ended = dict(wrong), [], []
        self.workers = {"a": None, "b": None}
        self.client = SimpleNamespace(run=lambda function, key, should_end, **more: self.answers.append(should_end))

    def run_on(self, workforce, function, take, tries, hear):
        assert tries == 1, "a sweep counts for itself"
        while orders := [order for order in (take(), take()) if order is not None]:
            for order in reversed(orders):  # the later one ends first
                message = {"number": order.number, "key": "k", "worker": "a"}
                score = score_of(order.params)
                hear({**message, "values": [[1, score / 2], [2, score]], "asks": True})
                hear({**message, "number": 99, "values": [[1, 0.0]], "asks": False})
                wrong = self.wrong.pop(order.number, None)
                if isinstance(wrong, BaseException) and not isinstance(wrong, Exception):
                    raise wrong
                value = {"value": score, "state": "COMPLETE", "seconds": 1.0, "mlflow_run_id": f"run {order.number}"}
                self.ended.append(order.number)
                yield Ended(order, None, wrong) if isinstance(wrong, Exception) else Ended(order, wrong or value)


@pytest.fixture
def loop(place, monkeypatch):
    def make(workers, **content):
        study = Study(make_sweep(place, **content))
        study.begin()
        monkeypatch.setattr(on_cluster, "run_on", workers.run_on)
        return study, on_cluster._Loop(study, Parent("sqlite://", "discs", "the sweep"), workers, "topic")

    return make


def test_the_client_alone_keeps_the_study(loop, capsys):
    study, over = loop(Workers())
    over.run()
    points = [{"batch_size": size, "learning_rate": rate} for size in (1, 2, 4) for rate in (0.1, 0.2)]
    assert [trial.params for trial in study.trials()] == points
    assert values(study) == {number: score_of(point) for number, point in enumerate(points)}
    assert study.trials()[3].intermediate_values == {1: 0.1, 2: 0.2}
    assert over.workforce.answers == [False] * 6
    assert capsys.readouterr().out.count("best") == 6
    assert len(table(study.folder)) == 6


def test_what_a_dead_worker_trained_comes_again_and_what_fails_is_kept_with_its_reason(loop):
    wrong = {0: WorkerDiedError("died"), 2: InputError("no such case"), 4: ValueError("a bug")}
    study, over = loop(Workers(wrong))
    over.run()
    states = [trial.state for trial in study.trials()]
    complete, failed = TrialState.COMPLETE, TrialState.FAIL
    assert states == [complete, complete, failed, complete, failed, complete]
    reasons = [trial.user_attrs.get("reason") for trial in study.trials()]
    assert reasons == [None, None, "no such case", None, "ValueError: a bug", None]
    assert over.workforce.ended.count(0) == 2


def test_what_a_stop_cuts_short_comes_first_when_the_sweep_goes_on(loop):
    study, over = loop(Workers({1: KeyboardInterrupt()}))
    with pytest.raises(KeyboardInterrupt):
        over.run()
    assert [trial.state for trial in study.trials()] == [TrialState.WAITING] * 2
    study, over = loop(Workers())
    over.run()
    assert over.workforce.ended[:2] == [1, 0]
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}


def test_a_point_that_is_being_trained_is_not_trained_beside_itself(loop):
    workers = Workers()
    sampled = {"sampler": "tpe", "trials": 12, "space": {"batch_size": [1, 2], "learning_rate": [0.1, 0.2]}}
    study, over = loop(workers, **sampled)
    over.run()
    trials = study.trials()
    points = [tuple(trial.params.values()) for trial in trials]
    assert sorted(workers.ended) == sorted(points.index(point) for point in set(points))
    assert len(set(points)) < len(points), "else this shows nothing"
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert all(trial.value == score_of(trial.params) for trial in trials)
