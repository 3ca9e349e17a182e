import csv
import io

import pytest
from optuna.trial import TrialState
from rich.console import Console
from sweep_files import make_sweep

from pipeline.sweeps.results import counts, importances, print_summary, progress_line, ranked, write_table
from pipeline.sweeps.study import Study

# By number: value, state, facts. Batch sizes 1 1 2 2 4 4, rates 0.1 0.2 0.1 ...
OUTCOMES = [
    (0.5, TrialState.COMPLETE, {"seconds": 100.0}),
    (0.75, TrialState.COMPLETE, {"seconds": 200.0, "mlflow_run_id": "abc"}),
    (None, TrialState.FAIL, {"reason": "out of memory: 3 GB", "seconds": 60.0}),
    (0.25, TrialState.PRUNED, {"seconds": 40.0}),
    (0.75, TrialState.COMPLETE, {"same_as": 1}),
]


@pytest.fixture
def study(place):
    def make(**content):
        found = Study(make_sweep(place, **content))
        found.begin()
        for value, state, facts in OUTCOMES:
            trial = found.claim()
            if value is not None:
                trial.report(value, 7)
            found.finish(trial, value, state, **facts)
        return found

    return make


def test_the_best_comes_first_and_of_equal_ones_the_earlier(study):
    assert [trial.user_attrs["number"] for trial in ranked(study())] == [1, 4, 0]


def test_where_less_is_better_the_least_comes_first(study):
    assert [trial.user_attrs["number"] for trial in ranked(study(direction="minimize"))] == [0, 1, 4]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "trial 0  batch_size=1  learning_rate=0.1  0.5000"),
        (2, "trial 2  batch_size=2  learning_rate=0.1  failed: out of memory: 3 GB"),
        (3, "trial 3  batch_size=2  learning_rate=0.2  pruned at epoch 7 (0.2500)"),
        (4, "trial 4  batch_size=4  learning_rate=0.1  0.7500 as trial 1"),
    ],
)
def test_a_line_says_what_a_trial_came_to_and_how_long_the_rest_takes(study, number, words):
    # (100 + 200 + 60 + 40) / 4 = 100 s for each trial that was trained, and one is left: 1.7 min
    assert progress_line(study(), number, workers=1) == f"5/6  {words}  best 0.7500 (trial 1)  2 min left"


def test_the_table_has_a_row_for_each_trial(study):
    found = study()
    with open(write_table(found), newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["state"] for row in rows] == ["complete", "complete", "failed", "pruned", "complete"]
    assert [row["val/mean_dice"] for row in rows] == ["0.5", "0.75", "", "0.25", "0.75"]
    assert [row["batch_size"] for row in rows] == ["1", "1", "2", "2", "4"]
    assert [row["run"].rpartition("/")[2] for row in rows] == [
        "tiny-000",
        "tiny-001",
        "tiny-002",
        "tiny-003",
        "tiny-001",
    ]
    assert rows[1]["mlflow_run_id"] == "abc"
    assert rows[2]["reason"] == "out of memory: 3 GB"
    assert rows[4]["same_as"] == "1"


def test_trials_are_counted_by_how_they_ended(study):
    assert counts(study()) == {"complete": 3, "pruned": 1, "failed": 1}


def test_what_mattered_is_what_the_values_follow(place):
    found = Study(make_sweep(place))
    found.begin()
    while (trial := found.claim()) is not None:
        found.finish(trial, float(trial.params["batch_size"]), TrialState.COMPLETE)
    shares = importances(found)
    assert list(shares) == ["batch_size", "learning_rate"]
    assert shares["batch_size"] == pytest.approx(1, abs=0.01)


def test_nothing_is_said_of_what_mattered_where_nothing_can_be_told(place):
    found = Study(make_sweep(place))
    found.begin()
    assert importances(found) == {}
    while (trial := found.claim()) is not None:
        found.finish(trial, 0.5, TrialState.COMPLETE)
    assert importances(found) == {}


def test_the_summary_shows_the_best_and_the_failures(study):
    text = io.StringIO()
    print_summary(study(), Console(file=text, width=120))
    lines = [line.split() for line in text.getvalue().splitlines()]
    (best,) = (number for number, line in enumerate(lines) if "0.7500" in line and "│" in line[0] and "0.2" in line)
    assert lines[best][1] == "1"
    assert "3 complete, 1 pruned, 1 failed" in text.getvalue()
    assert "trial 2 failed: out of memory: 3 GB" in text.getvalue()
