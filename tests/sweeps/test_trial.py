import json
import math

import optuna
import pytest
from sweep_files import POINTS, leave_scores, make_sweep, small

from pipeline.errors import InputError
from pipeline.sweeps.study import Study
from pipeline.sweeps.trial import Parent, SweepTrial, read_cases


@pytest.fixture
def make_trial(place, discs):
    made = []

    def make(**content):
        overrides = {key: value for key, value in small(discs).items() if key not in POINTS}
        study = Study(make_sweep(place, overrides=overrides, **content))
        study.begin()
        parent = Parent(f"sqlite:///{place}/mlflow.db", "discs", "the sweep")
        made.append(SweepTrial(study.sweep, study.claim(), parent))
        return made[-1]

    yield make
    for trial in made:
        trial.end("FINISHED")


def test_cases_are_read_back_with_what_is_not_applicable(tmp_path):
    leave_scores(tmp_path, {"a": 0.5, "b": None})
    first, second = read_cases(tmp_path / "evaluation" / "validation" / "cases.csv")
    assert first == {"case": "a", "mean_dice": 0.5}
    assert second["case"] == "b"
    assert math.isnan(second["mean_dice"])


def test_what_has_been_trained_is_not_trained_again(make_trial, place):
    trial = make_trial()
    leave_scores(place / "runs" / "tiny" / "tiny-000", {"a": 0.5, "b": 0.75, "c": None})
    assert trial.train() == 0.625


def test_the_value_is_a_mean_over_cases_and_not_over_folds(make_trial, place):
    trial = make_trial(folds=[0, 1])
    folder = place / "runs" / "tiny"
    leave_scores(folder / "tiny-000-fold-0", {"a": 1.0, "b": 1.0, "c": 0.7})
    leave_scores(folder / "tiny-000-fold-1", {"d": 0.1})
    assert trial.train() == pytest.approx(2.8 / 4)


def test_a_score_of_a_whole_stack_is_a_mean_over_folds(make_trial, place):
    trial = make_trial(folds=[0, 1], metric="val/vrand")
    for fold, value in enumerate([0.5, 0.7]):
        run = place / "runs" / "tiny" / f"tiny-000-fold-{fold}"
        leave_scores(run, {f"case_{fold}": 1.0})
        (run / "evaluation" / "validation" / "scores.json").write_text(
            json.dumps({"stack": {"vrand": value, "x": None}})
        )
    assert trial.train() == pytest.approx(0.6)


def test_a_trial_whose_cases_have_no_such_score_has_failed(make_trial, place):
    trial = make_trial()
    leave_scores(place / "runs" / "tiny" / "tiny-000", {"a": None})
    with pytest.raises(InputError, match="no validation case has a score 'val/mean_dice'"):
        trial.train()


def test_a_trial_that_was_pruned_stays_pruned(make_trial, place):
    trial = make_trial(folds=[0, 1])
    leave_scores(place / "runs" / "tiny" / "tiny-000-fold-0", {"a": 0.1}, pruned=3)
    with pytest.raises(optuna.TrialPruned):
        trial.train()
