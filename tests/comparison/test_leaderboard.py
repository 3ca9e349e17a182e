"""The best run of every data list, and how it is trained again."""

import shlex

import pytest
from made_runs import DIGEST, made_run

from pipeline.comparison import leaderboard
from pipeline.comparison.choice import Metric
from pipeline.comparison.entries import Entry
from pipeline.comparison.leaderboard import best_runs, reproduction
from pipeline.comparison.store import Store, TrackedRun
from pipeline.errors import InputError

DICE = Metric("mean_dice", "validation")
OTHER = "e" * 64


def best(client, metric=DICE, experiment=None):
    return [
        (one.data, one.digest, one.entry.label) for one in best_runs(Store(client.tracking_uri), metric, experiment)
    ]


def test_every_version_of_every_list_has_its_best_finished_run(client):
    made_run(client, "organs", "only", {"scan": 0.7})
    made_run(client, "cells", "plain", {"a": 0.5, "b": 0.7})
    made_run(client, "cells", "long", {"a": 0.6, "b": 0.7})
    made_run(client, "cells", "crashed", {"a": 0.9, "b": 0.9}, status="FAILED")
    made_run(client, "cells", "new list", {"c": 0.4}, digest=OTHER)
    cells = [("cells", DIGEST, "long"), ("cells", OTHER, "new list")]
    assert best(client) == [*cells, ("organs", DIGEST, "only")]
    assert best(client, experiment="cells") == cells
    assert best(client, Metric("mean_dice", "test")) == []
    with pytest.raises(InputError, match="did you mean cells"):
        best(client, experiment="cell")


def test_its_mean_and_its_bundle(client):
    key = made_run(client, "cells", "plain", {"a": 0.5, "b": 0.7, "c": float("nan")})
    (one,) = best_runs(Store(client.tracking_uri), DICE)
    assert (one.estimate.mean, one.estimate.count) == (pytest.approx(0.6), 2)
    assert one.bundle.endswith(f"{key}/artifacts/bundle")


def test_of_distances_the_least_is_the_best(client):
    for name, distance in (("far", 9.0), ("near", 2.0)):
        key = made_run(client, "cells", name, {"a": {"mean_dice": 0.5, "mean_hd95": distance}})
        client.log_metric(key, "val/mean_hd95", distance)
    assert best(client, Metric("mean_hd95", "validation")) == [("cells", DIGEST, "near")]


def test_the_table_of_cases_decides_not_the_tracked_number(client):
    made_run(client, "cells", "table", {"a": 0.8})
    tracked = made_run(client, "cells", "number", {"a": 0.7})
    client.log_metric(tracked, "best/mean_dice", 0.99)
    assert best(client) == [("cells", DIGEST, "table")]


def test_a_list_is_not_hidden_by_many_better_runs_of_another(client, monkeypatch):
    monkeypatch.setattr(leaderboard, "CANDIDATES", 2)
    for number in range(3):
        made_run(client, "cells", f"easy {number}", {"a": 0.9 + 0.01 * number})
    for number in range(2):
        made_run(client, "cells", f"hard {number}", {"b": 0.1 + 0.01 * number}, digest=OTHER)
    assert best(client) == [("cells", DIGEST, "easy 2"), ("cells", OTHER, "hard 1")]


def test_one_list_in_two_experiments_has_one_row_with_the_name_of_the_list(client):
    listed = {"data_list": "/anywhere/data_lists/cells.json"}
    made_run(client, "cells", "plain", {"a": 0.5}, tags=listed)
    made_run(client, "tries", "long", {"a": 0.6}, tags=listed)
    again = {"data_list": "/runs/plain/configs/data_list.json"}
    made_run(client, "tries", "again", {"a": 0.4}, tags=again)
    assert best(client) == [("cells", DIGEST, "long")]
    made_run(client, "tries", "from a bundle", {"a": 0.7}, tags=again)
    assert best(client) == [("tries", DIGEST, "from a bundle")]


def test_means_over_other_cases_are_not_ranked_against_each_other(client):
    for fold, (cases, score) in enumerate((("ab", 0.5), ("cd", 0.8))):
        for name, more in (("plain", 0), ("long", 0.1)):
            scores = dict.fromkeys(cases, score + more)
            made_run(client, "cells", f"{name}-{fold}", scores, params={"fold": fold, "kind": f"{name}{fold}"})
    made_run(client, "cells", "new labels", {"a": 0.9, "b": 0.9}, params={"fold": 0}, contents="e")
    found = best_runs(Store(client.tracking_uri), DICE)
    assert [(one.fold, one.entry.label) for one in found] == [("0", "new labels"), ("0", "long-0"), ("1", "long-1")]


def test_folds_of_one_variant_are_one_row(client):
    for fold in range(2):
        made_run(client, "cells", f"plain-{fold}", {f"case_{fold}": 0.5}, params={"fold": fold})
    (one,) = best_runs(Store(client.tracking_uri), DICE)
    assert (one.fold, one.entry.label, one.estimate.count) == ("all 2", "plain-0 (2 folds)", 2)


def test_trials_of_a_sweep_count_too(client):
    made_run(client, "cells", "plain", {"a": 0.5})
    sweep = made_run(client, "cells", "sweep")
    made_run(client, "cells", "trial", {"a": 0.6}, parent=sweep)
    assert best(client) == [("cells", DIGEST, "trial")]


def entry(artifacts, name="plain", **tags):
    run = TrackedRun("0123456789abcdef", name, "1", "FINISHED", 0, artifacts, {}, tags)
    return Entry(name, run, (run,), {})


def test_a_run_in_a_folder_is_trained_again_from_there():
    tags = {"mlflow.source.git.commit": "0123456789abcdef", "git.dirty": "true"}
    assert reproduction(entry("/my runs/a1/artifacts", **tags)) == [
        "git checkout 0123456789ab  # and changes that were not committed",
        "python -m monai.bundle run training "
        "--config_file '/my runs/a1/artifacts/bundle/configs/train.json' --run_name plain-again",
    ]
    clean = reproduction(entry("/a1", **{**tags, "git.dirty": "false"}))
    assert clean[0] == "git checkout 0123456789ab"


def test_the_bundle_of_a_server_is_fetched_first():
    assert reproduction(entry("mlflow-artifacts:/1/a1/artifacts", "two words")) == [
        "mlflow artifacts download --run-id 0123456789abcdef --artifact-path bundle --dst-path 01234567",
        "python -m monai.bundle run training "
        "--config_file 01234567/bundle/configs/train.json --run_name 'two words-again'",
    ]


def test_no_tag_of_a_run_becomes_a_command():
    commands = reproduction(entry("mlflow-artifacts:/1/a1", "a; b", **{"mlflow.source.git.commit": "$(c);d"}))
    assert commands[0] == "git checkout '$(c);d'"
    assert shlex.split(commands[-1])[-1] == "a; b-again"
