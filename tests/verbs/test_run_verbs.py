"""What is asked for on the command line reaches the runs."""

import pytest

from pipeline.cli import main


def called(monkeypatch, place, words):
    """The arguments that a function gets of a command line."""
    found = []
    monkeypatch.setattr(place, lambda *args, **more: found.append((args, more)) or True)
    main(words)
    return found[0]


def test_the_options_of_a_comparison_reach_it(monkeypatch):
    _, options = called(monkeypatch, "pipeline.compare.compare", ["compare", "--runs", "a", "b", "--most", "3"])
    assert (options["runs"], options["most"], options["output"], options["filter_"]) == (
        ["a", "b"],
        3,
        "comparison",
        None,
    )


def test_the_options_of_the_others_reach_them(monkeypatch):
    words = ["promote", "run", "--alias", "champion", "--name", "mine"]
    assert called(monkeypatch, "pipeline.registry.promote", words)[0] == ("run", "champion", "mine", None)
    assert called(monkeypatch, "pipeline.sync.sync", ["sync", "a", "b"])[0] == (["a", "b"], None, "runs")
    assert called(monkeypatch, "pipeline.doctor.examine", ["doctor"])[0] == (None, "runs", "bundles/unet")
    assert called(monkeypatch, "pipeline.compare.leaderboard", ["leaderboard"])[1]["experiment"] is None


def test_a_sweep_is_run_here_or_on_a_cluster(monkeypatch):
    place = "pipeline.sweeps.sweep.run_sweep"
    assert called(monkeypatch, place, ["sweep", "a.yaml", "--workers", "2"])[0] == ("a.yaml", 2, None, None)
    arguments, _ = called(monkeypatch, place, ["sweep", "a.yaml", "--scheduler", "tcp://a:1", "--trials", "3"])
    assert arguments[:3] == ("a.yaml", 1, 3)
    assert arguments[3].scheduler == "tcp://a:1"
    with pytest.raises(SystemExit, match="--workers are of this machine"):
        main(["sweep", "a.yaml", "--scheduler", "tcp://a:1", "--workers", "2"])
