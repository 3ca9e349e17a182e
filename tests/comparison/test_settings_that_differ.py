"""Params of runs: what differs, what differs in step, what only says where a run lives."""

from pipeline.comparison.settings_that_differ import columns, same_but, settings_of
from pipeline.comparison.store import TrackedRun


def run(params, tags=None):
    return TrackedRun("id", "name", "1", "FINISHED", 0, "", params, tags or {})


def test_where_a_run_lives_is_no_setting():
    params = {"run_name": "a", "output_dir": "runs", "mlflow/uri": "x", "resume": "True", "epochs": "3", "seed": "1"}
    assert settings_of(run(params)) == {"epochs": "3", "seed": "1"}


def test_of_a_path_the_last_name_counts_and_expressions_are_none():
    params = {
        "dataset_dir": "/scratch/me/data/cells",
        "data_list": "$@bundle_root + '/configs/data_list.json'",
        "transform/file": "a/b",
        "ratio": "1/3",
    }
    assert settings_of(run(params)) == {
        "dataset_dir": "cells",
        "data_list": "$@bundle_root + '/configs/data_list.json'",
        "transform/file": "b",
        "ratio": "1/3",
    }


def test_a_resumed_run_has_the_settings_of_its_last_start():
    found = settings_of(run({"epochs": "3", "patience": "5"}, {"resumed.epochs": "9", "resumed.patience": "None"}))
    assert found == {"epochs": "9"}


def test_only_what_differs_is_a_column():
    found = columns([{"a": "1", "b": "x", "c/d": "p"}, {"a": "1", "b": "y", "c/d": "p"}, {"a": "1", "b": "x"}])
    assert [(column.key, column.values) for column in found] == [("b", ("x", "y", "x")), ("c/d", ("p", "p", "–"))]
    assert columns([{"a": "1"}]) == []
    assert columns([]) == []


def test_what_differs_in_step_is_one_column():
    plain = {"augmentation": "on", "steps/0/prob": "0.1", "steps/1/prob": "0.2", "lr": "1"}
    without = {"augmentation": "off", "lr": "1"}
    found = columns([plain, without, {**plain, "lr": "2"}])
    assert [column.title for column in found] == ["lr", "augmentation (+2)"]
    assert found[1].others == ("steps/0/prob", "steps/1/prob")
    assert found[1].values == ("on", "off", "on")


def test_runs_that_are_the_same_but_for_the_seed():
    one, other = {"lr": "1", "seed": "0"}, {"lr": "1", "seed": "1"}
    assert same_but(one, "seed") == same_but(other, "seed")
    assert same_but(one) != same_but(other)
