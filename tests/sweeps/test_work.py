import multiprocessing
import os
import signal
import threading
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState
from sweep_files import InsteadOfTraining, make_sweep, points, score_of, values

from pipeline.errors import InputError
from pipeline.sweeps import space, work
from pipeline.sweeps.study import Study
from pipeline.sweeps.trial import Parent

EXPECTED = {
    number: score_of(point)
    for number, point in enumerate(
        {"batch_size": size, "learning_rate": rate} for size in (1, 2, 4) for rate in (0.1, 0.2)
    )
}


@pytest.fixture
def study(place):
    def make(**content):
        found = Study(make_sweep(place, **content))
        found.begin()
        return found

    return make


def parent(place):
    return Parent(f"sqlite:///{place}/mlflow.db", "discs", "the sweep")


def test_trials_are_trained_one_after_the_other_and_each_has_its_line(study, place, monkeypatch, capsys):
    training = InsteadOfTraining().install(monkeypatch)
    found = study()
    work.work(found.sweep, parent(place))
    assert values(found) == EXPECTED
    assert training.trained == [0, 1, 2, 3, 4, 5]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == [f"trial {number}" for number in range(6)]
    assert lines[-1].endswith("0.0000  best 0.2000 (trial 3)  done") or lines[-1].endswith(
        "best 0.2000 (trial 3)  done"
    )
    assert (found.folder / "results.csv").is_file()


def test_trials_that_fail_are_kept_with_their_reason_and_the_sweep_goes_on(study, place, monkeypatch):
    wrong = {0: InputError("no such case"), 2: torch.OutOfMemoryError("3 GB\nmore"), 3: optuna.TrialPruned()}
    InsteadOfTraining(wrong).install(monkeypatch)
    found = study()
    work.work(found.sweep, parent(place))
    states = [trial.state for trial in found.trials()]
    assert states == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.PRUNED,
        *[TrialState.COMPLETE] * 2,
    ]
    reasons = [trial.user_attrs.get("reason") for trial in found.trials()]
    assert reasons == ["no such case", None, "out of memory: 3 GB", None, None, None]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_trial_that_the_user_stops_comes_first_when_the_sweep_goes_on(study, place, monkeypatch, stop):
    training = InsteadOfTraining({1: stop()}).install(monkeypatch)
    found = study()
    with pytest.raises(stop):
        work.work(found.sweep, parent(place))
    assert found.trials()[1].state == TrialState.WAITING
    work.work(found.sweep, parent(place))
    assert training.trained == [0, 1, 2, 3, 4, 5]
    assert values(found) == EXPECTED


def test_a_point_that_comes_again_is_not_trained_again(study, place, monkeypatch):
    training = InsteadOfTraining({1: InputError("no such case")}).install(monkeypatch)
    found = study(sampler="tpe", trials=4)
    one, two = space.grid(found.sweep.space)[:2]
    for number, point in enumerate([one, two, one, two]):
        found.optuna.enqueue_trial(point, user_attrs={"number": number})
    work.work(found.sweep, parent(place))
    assert training.trained == [0]
    assert [trial.value for trial in found.trials()] == [score_of(one), None, score_of(one), None]
    assert [trial.user_attrs.get("same_as") for trial in found.trials()] == [None, None, 0, 1]
    assert found.trials()[3].user_attrs["reason"] == "no such case"


def work_instead(sweep, above, workers, place):
    """What a worker does, without training; the first one to come to trial 2 is killed there, as for want of memory."""
    training = InsteadOfTraining()
    mark = sweep.folder / "killed"

    def train(trial, run, fold, is_first):
        if trial.trial.user_attrs["number"] == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        training(trial, run, fold, is_first)

    work.SweepTrial._train = train
    work.work(sweep, above, workers)


def die_at(moment, signal_=signal.SIGKILL):
    """Return a function that kills its process the first time that it is called, over all processes."""

    def die(study):
        mark = study.folder / f"killed-{moment}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal_)

    return die


def killed_between(sweep, above, workers, place):
    """Workers of which one each is killed at its start, while it takes a trial, and between two trials."""
    die_at("start")(sweep)
    ask, finish = optuna.Study.ask, Study.finish

    def ask_and_die(study, distributions):
        trial = ask(study, distributions)
        if trial.number == 1:
            die_at("claim")(sweep)
        return trial

    def finish_and_die(study, *args, **facts):
        finish(study, *args, **facts)
        die_at("end")(sweep)

    optuna.Study.ask, Study.finish = ask_and_die, finish_and_die
    InsteadOfTraining().install(pytest.MonkeyPatch())
    work.work(sweep, above, workers)


def told_to_stop(sweep, above, workers, place):
    with work.stopped_by_signals():
        die_at("start", signal.SIGTERM)(sweep)
        work_instead(sweep, above, workers, place)


def kill_itself(sweep, above, workers, place):
    (sweep.folder / f"started-{os.getpid()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def end_at_once(sweep, above, workers, place):
    os._exit(3)


@pytest.fixture
def forked(monkeypatch):
    """Workers that begin in a tenth of a second instead of ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.sweeps.sweep"])
    monkeypatch.setattr(work.multiprocessing, "get_context", lambda method: context)


def test_a_worker_that_dies_is_replaced_and_its_trial_begins_again(study, place, monkeypatch, forked, caplog):
    monkeypatch.setattr(work, "_worker", work_instead)
    found = study()
    work.work_in_processes(found, parent(place), workers=2)
    assert values(found) == EXPECTED
    assert "a worker was killed (SIGKILL); its trial begins again" in caplog.text
    assert len(found.optuna.get_trials()) == 7
    workers = {trial.user_attrs["process"]["pid"] for trial in found.optuna.get_trials()}
    assert 2 <= len(workers) <= 3
    assert os.getpid() not in workers


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_worker_that_is_killed_at_its_start_or_among_trials_costs_no_trial(
    study, place, monkeypatch, forked, caplog, sampler
):
    monkeypatch.setattr(work, "_worker", killed_between)
    found = study(**({} if sampler == "grid" else {"sampler": "tpe", "trials": 4}))
    work.work_in_processes(found, parent(place), workers=1)
    assert sorted(file.name for file in found.folder.glob("killed-*")) == ["killed-claim", "killed-end", "killed-start"]
    assert caplog.text.count("a worker was killed (SIGKILL); another one begins") == 2
    assert caplog.text.count("a worker was killed (SIGKILL); its trial begins again") == 1
    count = found.sweep.total
    assert [trial.user_attrs["number"] for trial in found.trials()] == list(range(count))
    assert values(found) == {number: score_of(point) for number, point in enumerate(points(found))}
    assert len(found.optuna.get_trials()) == count + 1  # one was begun twice, and none is running still
    assert not found.optuna.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_a_worker_that_somebody_stops_is_replaced(study, place, monkeypatch, forked, caplog):
    monkeypatch.setattr(work, "_worker", told_to_stop)
    found = study()
    work.work_in_processes(found, parent(place), workers=1)
    assert values(found) == EXPECTED
    assert "a worker was killed (SIGTERM); another one begins" in caplog.text


def test_workers_that_are_killed_at_each_start_end_the_sweep_with_a_remedy(study, place, monkeypatch, forked):
    monkeypatch.setattr(work, "_worker", kill_itself)
    found = study()
    words = r"3 workers in a row were killed \(SIGKILL\) before they came to a trial\. Remedy: .*fewer --workers"
    with pytest.raises(InputError, match=words):
        work.work_in_processes(found, parent(place), workers=1)
    assert len([*found.folder.glob("started-*")]) == 3


def test_workers_that_cannot_begin_are_not_started_for_ever(study, place, monkeypatch, forked):
    monkeypatch.setattr(work, "_worker", end_at_once)
    with pytest.raises(RuntimeError, match="a worker ended with status 3"):
        work.work_in_processes(study(), parent(place), workers=2)


def test_a_worker_ends_when_the_process_that_started_it_is_gone(monkeypatch):
    reading, writing = multiprocessing.Pipe(duplex=False)
    above = SimpleNamespace(sentinel=reading)
    done = []
    monkeypatch.setattr(work.multiprocessing, "parent_process", lambda: above)
    monkeypatch.setattr(work.os, "kill", lambda pid, number: done.append((pid, number)))
    monkeypatch.setattr(work.os, "_exit", done.append)
    monkeypatch.setattr(work.time, "sleep", done.append)
    thread = threading.Thread(target=work._end_with_parent)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert done == []
    writing.close()
    thread.join(10)
    reading.close()
    assert done == [(os.getpid(), signal.SIGTERM), work.STOPPED_WITHIN, 1]


def test_workers_share_the_cores_and_their_environment_is_theirs_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with work._shared_cores(3):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # the user's own
    assert "OMP_NUM_THREADS" not in os.environ


def test_gpus_are_those_that_this_process_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert work._visible_devices() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert work._visible_devices() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert work._visible_devices() == ["0", "1", "2"]


def test_sigterm_becomes_an_exit_that_closes_what_is_open():
    earlier = signal.getsignal(signal.SIGTERM)
    with work.stopped_by_signals(), pytest.raises(SystemExit, match="143"):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is earlier
