"""Params of runs: what differs, what differs in step, what only says where a run lives."""

from pipeline.comparison.settings_that_differ import columns, same_but, settings_of, shown_settings
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


def test_a_data_list_is_its_digest_and_a_device_is_no_setting():
    tags = {"data_list.digest": "0123456789abcdef"}
    here = run({"data_list": "lists/cells.json", "device": "cpu"}, tags)
    there = run(
        {"data_list": "$@bundle_root + '/configs/data_list.json'", "device": "$'cuda' if True else 'cpu'"}, tags
    )
    assert settings_of(here) == settings_of(there) == {"data_list": "01234567"}


def test_code_and_whole_path_of_the_data_are_shown_beside_the_settings():
    first = run({"dataset_dir": "/a/cells", "lr": "1"}, {"mlflow.source.git.commit": "0123456789", "git.dirty": "true"})
    second = run(
        {"dataset_dir": "/b/cells", "lr": "2"}, {"mlflow.source.git.commit": "0123456789", "git.dirty": "false"}
    )
    found = columns([shown_settings(first), shown_settings(second)])
    assert [(column.key, column.others, column.values) for column in found] == [
        ("lr", (), ("1", "2")),
        ("code", (), ("01234567, changed", "01234567")),
        ("dataset_dir", (), ("/a/cells", "/b/cells")),
    ], "they hide no setting, and none hides them"
    assert columns([settings_of(first), settings_of(second)])[0].title == "lr"
    assert columns([shown_settings(run({"dataset_dir": "a/cells"}))] * 2) == []


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
