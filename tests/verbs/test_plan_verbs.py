"""What is asked for on the command line reaches the planner."""

import pytest

from pipeline.cli import main


def called(monkeypatch, place, words):
    found = []
    monkeypatch.setattr(place, lambda *args: found.append(args))
    monkeypatch.setattr("pipeline.planning.auto.summary", lambda made: "the summary")
    main(words)
    return found[0]


def test_plan(monkeypatch, capsys):
    words = ["plan", "x.json", "-o", "plan.yaml", "--budget", "30min", "--fold", "2", "--dataset_dir", "d"]
    found = called(monkeypatch, "pipeline.planning.plan.plan", words)
    assert found == ("x.json", "plan.yaml", "d", 1800.0, 2, None, "bundles")
    assert "the summary" in capsys.readouterr().out


def test_auto(monkeypatch):
    words = ["auto", "x.json", "--device", "cpu", "--run_name", "mine", "--output_dir", "there"]
    found = called(monkeypatch, "pipeline.planning.auto.auto", words)
    assert found == ("x.json", None, 3600.0, 0, "cpu", "bundles", "there", "mine")


def test_a_budget_that_is_no_time():
    with pytest.raises(SystemExit, match="budget 'soon' is no time"):
        main(["plan", "x.json", "-o", "plan.yaml", "--budget", "soon"])
