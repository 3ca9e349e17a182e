import os
import subprocess
import sys

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sweep_files import POINTS, make_sweep, points, score_of, values

from pipeline.errors import InputError
from pipeline.sweeps import space, study
from pipeline.sweeps.study import Study


def begun(place, **content):
    found = Study(make_sweep(place, **content))
    found.begin()
    return found


def finish(found, trial):
    found.finish(trial, score_of(trial.params), TrialState.COMPLETE)


def run_all(found, kill_at=()):
    """Work through a study; at some claims the process dies, and another one begins again."""
    count = 0
    while (trial := found.claim()) is not None:
        if count in kill_at:
            found = Study(found.sweep)
            found.begin()
        else:
            finish(found, trial)
        count += 1
    return found


def test_a_grid_is_handed_out_in_order_and_once(place):
    found = begun(place)
    claimed = [found.claim() for _ in range(6)]
    assert [trial.params for trial in claimed] == space.grid(found.sweep.space)
    assert [trial.user_attrs["number"] for trial in claimed] == list(range(6))
    assert found.claim() is None


def test_two_processes_share_a_study_without_doing_anything_twice(place):
    first, second = begun(place), Study(make_sweep(place))
    claimed = [(first if number % 2 else second).claim().params for number in range(6)]
    assert claimed == space.grid(first.sweep.space)
    assert first.claim() is second.claim() is None


@pytest.mark.parametrize(
    ("content", "kills"),
    [({}, [0, 3, 4]), ({"sampler": "random", "trials": 5, "seed": 3}, [2, 5])],
    ids=["grid", "random"],
)
def test_a_sweep_that_was_killed_comes_to_what_one_comes_to_that_was_not(place, content, kills):
    sweep = make_sweep(place, **content)
    expected = space.grid(sweep.space) if not content else space.draws(sweep.space, 3, 5)
    killed = run_all(begun(place, **content), kills)
    assert points(killed) == expected
    assert values(killed) == {number: score_of(point) for number, point in enumerate(expected)}
    states = [trial.state for trial in killed.optuna.get_trials()]
    assert states.count(TrialState.FAIL) == len(kills)


def test_tpe_goes_on_after_a_kill_as_it_would_have_without(place):
    content = {"sampler": {"tpe": {"n_startup_trials": 2}}, "trials": 6}
    content |= {"space": {"batch_size": {"int": [1, 64]}, "learning_rate": {"log": [1e-4, 1]}}}
    killed = run_all(begun(place, **content), kill_at=[3])
    whole = run_all(begun(place, name="whole", **content))
    assert points(killed) == points(whole)
    assert len(points(whole)) == 6


def test_more_trials_continue_a_sweep_that_was_complete(place):
    run_all(begun(place, trials=2))
    assert list(values(run_all(begun(place, trials=4)))) == [0, 1, 2, 3]


def test_what_a_kill_cut_short_is_failed_and_comes_next_under_its_number(place):
    found = begun(place)
    finish(found, found.claim())
    lost = found.claim()
    again = begun(place).claim()
    assert (again.user_attrs["number"], again.params) == (1, lost.params)
    assert [trial.state for trial in found.optuna.get_trials()] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert [trial.number for trial in found.trials()] == [0, 2]  # Optuna's own numbers


def test_a_point_is_queued_again_once_only_however_often_the_kill_is_met(place):
    found = begun(place)
    lost = found.claim()
    found.optuna.enqueue_trial(lost.params, user_attrs={"number": 0})  # a kill came between this and the end of `lost`
    run_all(begun(place))
    assert sorted(values(found)) == list(range(6))
    assert len(found.optuna.get_trials()) == 7


def test_a_trial_that_kills_its_process_over_and_over_is_given_up(place):
    found = begun(place)
    for _ in range(3):
        assert found.claim().user_attrs["number"] == 0
        found.begin()
    (trial,) = found.trials()
    assert trial.state == TrialState.FAIL
    assert "killed 3 times in a row without getting further" in trial.user_attrs["reason"]
    assert found.claim().user_attrs["number"] == 1


def test_a_trial_that_the_user_stops_over_and_over_is_not_given_up(place):
    found = begun(place)
    for _ in range(5):
        trial = found.claim()
        assert trial.user_attrs["number"] == 0
        found.put_back(trial, is_asked_for=True)
    assert found.trials()[0].state == TrialState.WAITING


def test_a_trial_that_gets_further_each_time_is_not_given_up(place):
    found = begun(place)
    for _ in range(5):
        assert found.claim().user_attrs["number"] == 0
        checkpoint = found.folder / "tiny-000-fold-1" / "checkpoints" / "last.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(b"")
        found.begin()
    assert found.trials()[0].state == TrialState.WAITING


def test_the_same_point_again_waits_for_the_first_one_and_finds_its_value(place, monkeypatch):
    found = begun(place, sampler="tpe", trials=3)
    first = found.claim()
    found.optuna.enqueue_trial(first.params, user_attrs={"number": 1})
    second = found.claim()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        finish(found, first)

    monkeypatch.setattr(study.time, "sleep", sleep)
    assert found.twin(second).value == score_of(first.params)
    assert slept == [1]
    assert found.twin(first) is None


def test_the_same_points_that_are_queued_again_in_another_order_wait_for_nobody(place, monkeypatch):
    found = begun(place, sampler="tpe", trials=2)
    first = found.claim()
    found.optuna.enqueue_trial(first.params, user_attrs={"number": 1})
    second = found.claim()
    found.put_back(second)
    found.put_back(first)

    def sleep(seconds):
        raise AssertionError("a lone process waits for itself")

    monkeypatch.setattr(study.time, "sleep", sleep)
    found.begin()
    for number in (1, 0):
        trial = found.claim()
        assert trial.user_attrs["number"] == number
        assert found.twin(trial) is None
        finish(found, trial)
    assert found.claim() is None
    assert values(found) == dict.fromkeys((0, 1), score_of(first.params))


def test_a_kill_among_the_draws_of_a_trial_changes_none_of_them(place, monkeypatch):
    content = {"sampler": "tpe", "trials": 2}
    content |= {"space": {"batch_size": {"int": [1, 64]}, "learning_rate": {"log": [1e-4, 1]}}}
    whole = run_all(begun(place, name="whole", **content))
    killed = begun(place, **content)
    suggest = optuna.Trial._suggest

    def die(trial, name, distribution):
        if name == "learning_rate":
            raise KeyboardInterrupt  # stands in for a kill
        return suggest(trial, name, distribution)

    monkeypatch.setattr(optuna.Trial, "_suggest", die)
    with pytest.raises(KeyboardInterrupt):
        killed.claim()
    monkeypatch.undo()
    (cut,) = killed.optuna.get_trials()
    assert (cut.state, list(cut.params)) == (TrialState.RUNNING, ["batch_size"])
    assert killed.put_back_of_process(os.getpid())
    assert points(run_all(killed)) == points(whole)


def test_a_trial_that_another_machine_trains_is_not_put_back_for_a_process_of_this_one(place):
    found = begun(place)
    trial = found.claim()
    trial.set_user_attr("process", {"host": "elsewhere", "pid": os.getpid(), "started": 0})
    assert not found.put_back_of_process(os.getpid())
    assert not found.has_begun(os.getpid())
    assert found.trials()[0].state == TrialState.RUNNING


def test_tpe_ends_when_a_small_space_has_no_other_point(place):
    found = begun(place, sampler={"tpe": {"n_startup_trials": 100}}, trials=100, space={**POINTS, "batch_size": [2]})
    while (trial := found.claim()) is not None:
        finish(found, trial)
    assert {trial.params["learning_rate"] for trial in found.trials()} == {0.1, 0.2}
    assert len(found.trials()) < 30  # by chance: each next one is new with probability 1/2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {**POINTS, "seed": [1, 2]}}, "begun with another space"),
        ({"seed": 1, "metric": "val/accuracy"}, "begun with another metric, seed"),
        ({"overrides": {"epochs": 3}}, "begun with another overrides"),
    ],
)
def test_a_changed_sweep_does_not_continue_another_one(place, change, words):
    begun(place)
    with pytest.raises(InputError, match=f"the sweep 'tiny' was {words}.*another name: only 'trials' may grow"):
        begun(place, **change)
    begun(place, trials=2)


def test_a_setting_that_is_no_number_is_still_the_same_setting(place):
    for _ in range(2):
        begun(place, space={"learning_rate": [float("nan"), 0.1]})


def test_a_storage_with_a_sweep_of_this_name_from_another_folder_is_refused(place):
    storage = f"sqlite:///{place}/runs/tiny/study.db"
    begun(place, storage=storage)
    with pytest.raises(InputError, match="has a sweep 'tiny' already, which was begun in another folder"):
        begun(place, storage=storage, output_dir=str(place / "elsewhere"))


def test_runs_whose_study_is_gone_are_not_taken_for_those_of_a_new_sweep(place):
    run = place / "runs" / "tiny" / "tiny-000"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds 1 runs of a sweep whose study is gone.*delete this folder"):
        begun(place)


@pytest.mark.parametrize(
    ("storage", "kind"),
    [("nonsense", "nonsense"), ("nodb://me:secret@host/x", "nodb"), ("sqlite:////no/where.db", "sqlite")],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(place, storage, kind):
    with pytest.raises(InputError, match=rf"the storage \({kind}\) cannot be used.*check 'storage'") as caught:
        begun(place, storage=storage)
    assert "secret" not in str(caught.value)


def test_a_worker_that_outlives_its_sweep_is_waited_for(place, monkeypatch):
    found = begun(place)
    trial = found.claim()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as worker:
        trial.set_user_attr("process", {**trial.user_attrs["process"], **_process(worker.pid)})
        monkeypatch.setattr(study, "ENDS_WITHIN", 0.1)
        with pytest.raises(
            InputError, match=f"trial 0 is still being trained by the process {worker.pid}.*kill {worker.pid}"
        ):
            found.begin()
        monkeypatch.setattr(study.time, "sleep", lambda seconds: worker.kill())
        monkeypatch.setattr(study, "ENDS_WITHIN", 30)
        found.begin()
    assert found.trials()[0].state == TrialState.WAITING


def _process(pid):
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def test_a_trial_of_this_process_or_of_another_machine_needs_no_waiting(place):
    found = begun(place)
    found.claim()
    found.claim().set_user_attr("process", {"host": "elsewhere", "pid": os.getpid(), "started": 0})
    found.begin()
    assert [trial.state for trial in found.trials()] == [TrialState.WAITING] * 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the sweep's folder cannot be made: Not a directory\. Remedy: give another"):
        Study(make_sweep(tmp_path, output_dir=str(tmp_path / "file")))


def test_optuna_says_nothing_of_the_studies_that_it_makes(place, caplog):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        Study(make_sweep(place, sampler="random", trials=2))
    finally:
        optuna.logging.disable_propagation()
    assert "study created" not in caplog.text
