"""Tables of cases, and folds as one."""

import math
from dataclasses import replace

import pytest
from made_runs import made_run

from pipeline.comparison.artifacts import local_folder
from pipeline.comparison.entries import Entry, Reader, pool_folds
from pipeline.comparison.store import Store, TrackedRun


def entry(name, cases, digest="d", data=None, **params):
    settings = {key: str(value) for key, value in params.items()}
    tags = {"data_list.digest": digest, **({"data.digest": data} if data else {})}
    run = TrackedRun(name, name, "1", "FINISHED", 0, "", settings, tags)
    return Entry(name, run, (run,), {case: {"mean_dice": 0.5} for case in cases})


def test_the_mean_leaves_out_what_is_no_number():
    of_two = Entry("e", entry("e", "").run, (), {"a": {"s": 1.0}, "b": {"s": math.nan}, "c": {}, "d": {"s": math.inf}})
    assert of_two.mean("s") == 1
    assert math.isnan(of_two.mean("other"))


def test_folds_of_one_variant_are_pooled():
    found = pool_folds(
        [entry("x1", "cd", fold=1, lr=1), entry("x0", "ab", fold=0, lr=1), entry("y0", "ab", fold=0, lr=2)]
    )
    assert [one.label for one in found] == ["x0 (2 folds)", "y0"]
    assert sorted(found[0].scores) == list("abcd")
    assert "fold" not in found[0].settings
    assert [run.id for run in found[0].sources] == ["x0", "x1"]
    assert [fold.label for fold in found[0].folds] == ["x0", "x1"]
    assert "2 folds as one, 4 cases" in found[0].notes[0]
    assert found[0].notes[0].endswith("whether all of them had the same files is not recorded")


def test_folds_of_the_same_data_keep_its_digests():
    halves = [entry(f"x{fold}", cases, data="all of it", fold=fold) for fold, cases in enumerate(("ab", "cd"))]
    (found,) = pool_folds([replace(one, contents=dict.fromkeys(one.scores, one.label)) for one in halves])
    assert found.contents == {"a": "x0", "b": "x0", "c": "x1", "d": "x1"}
    assert "not recorded" not in found.notes[0]


@pytest.mark.parametrize("data", ["other", None], ids=["changed", "not recorded"])
def test_folds_of_other_data_stay_apart(data):
    folds = [entry("a", "ab", data="first", fold=0), entry("b", "cd", data=data, fold=1)]
    assert [one.label for one in pool_folds(folds)] == ["a", "b"]


def test_where_a_run_was_trained_keeps_no_folds_apart():
    here = {"data_list": "lists/cells.json", "device": "cpu", "dataset_dir": "/home/me/cells"}
    there = {
        "data_list": "$@bundle_root + '/configs/data_list.json'",
        "device": "cuda",
        "dataset_dir": "/scratch/cells",
    }
    assert len(pool_folds([entry("a", "ab", fold=0, **here), entry("b", "cd", fold=1, **there)])) == 1


@pytest.mark.parametrize(
    "second",
    [
        entry("b", "bc", fold=1, lr=1),
        entry("b", "cd", fold=0, lr=1),
        entry("b", "cd", fold=1, lr=2),
        entry("b", "cd", "other", fold=1, lr=1),
        entry("b", "cd", lr=1),
    ],
    ids=["a case in both", "the same fold", "another setting", "another data list", "no fold"],
)
def test_what_is_no_cross_validation_stays_apart(second):
    assert [one.label for one in pool_folds([entry("a", "ab", fold=0, lr=1), second])] == ["a", "b"]


def runs_of(store, *names):
    return store.named(names, list(store.experiments()))[0]


def test_a_damaged_table_leaves_out_its_run_alone(client):
    for name, score in (("whole", 0.5), ("damaged", 0.7), ("gone", 0.8)):
        made_run(client, "cells", name, {"a": score})
    made_run(client, "cells", "empty")
    store = Store()
    whole, damaged, gone, empty = runs_of(store, "whole", "damaged", "gone", "empty")
    (local_folder(damaged) / "evaluation/validation/cases.csv").write_bytes(b"case,mean_dice\na,half\n")
    local_folder(gone).rename(local_folder(gone).with_name("elsewhere"))
    found, left = Reader(store, "validation", "mean_dice").entries([whole, damaged, gone, empty])
    assert [one.label for one in found] == ["whole"]
    reasons = {one.run.name: one.reason for one in left}
    assert reasons["damaged"].startswith("its table of cases is damaged (ValueError")
    assert reasons["gone"] == f"its files are gone from {local_folder(gone).parent.parent}"
    assert reasons["empty"] == "no scores of the validation split (evaluation/validation/cases.csv)"


def test_a_damaged_trial_leaves_the_others_of_its_sweep(client):
    sweep = made_run(client, "cells", "sweep")
    for name, score in (("low", 0.5), ("damaged", 0.9), ("best", 0.7)):
        made_run(client, "cells", name, {"a": score}, parent=sweep, params={"lr": score})
    store = Store()
    (damaged,) = runs_of(store, "damaged")
    (local_folder(damaged) / "evaluation/validation/cases.csv").write_bytes(b"")
    (found,), left = Reader(store, "validation", "mean_dice").entries(runs_of(store, "sweep"))
    assert (found.label, left) == ("sweep: best", [])
    assert found.notes[0] == "the best of 2 trials of 'sweep', chosen on these cases"
    assert found.notes[1].startswith("damaged is left out of it: its table of cases is damaged")


def test_the_best_of_many_trials_is_found_whenever_it_ran(client, monkeypatch):
    monkeypatch.setattr("pipeline.comparison.store.PAGE", 3)
    sweep = made_run(client, "cells", "sweep")
    for number in range(8):
        made_run(client, "cells", f"trial {number}", {"a": 0.9 - 0.1 * number}, parent=sweep, params={"lr": number})
    store = Store()
    (found,), _ = Reader(store, "validation", "mean_dice").entries(runs_of(store, "sweep"))
    assert found.label == "sweep: trial 0", "the first that ran, on the last page"
    assert len(found.trials) == 8
