"""One command from a list to a report: the commands that it gives are those of the README."""

import json
import shutil
from types import SimpleNamespace

import pytest
from discs import ROOT, write_discs
from forked import Python

from pipeline.errors import InputError
from pipeline.planning import auto as auto_module
from pipeline.planning import schedule, timing
from pipeline.planning.auto import auto

BUNDLES = ROOT / "bundles"


@pytest.fixture
def quick(monkeypatch, tmp_path, empty_store):
    """Trainings of a few steps, in children that need not import everything; and the commands that are given."""
    given = []

    def run(command, env, check):
        given.append(command[1:])
        done = Python(*command[1:], cwd=tmp_path).wait()
        print(done.stdout, done.stderr)
        return done

    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(auto_module.subprocess, "run", run)
    monkeypatch.setattr(timing, "step_seconds", lambda config, settings: 10.0)
    monkeypatch.setattr(timing, "case_seconds", lambda config, settings: 0.1)
    monkeypatch.setattr(schedule, "WIDTHS", (4,))
    monkeypatch.setattr("pipeline.planning.plan.has_compiler", lambda: False)
    monkeypatch.setattr(schedule, "LEAST_EPOCHS", 2)
    monkeypatch.setattr(schedule, "LEAST_STEPS", 0)
    return given


def test_a_list_becomes_an_evaluated_run(quick, tmp_path, capsys):
    data_list = write_discs(tmp_path / "discs")
    run = auto(data_list, data_list.parent, 60, device="cpu", bundles=BUNDLES, run_name="mine")
    assert run.name == "mine"
    assert (run / "models" / "model.pt").is_file()
    scores = json.loads((run / "evaluation" / "test" / "scores.json").read_text())
    assert scores["cases"] == 2
    assert [command[3] for command in quick] == ["training", "evaluating"]
    said = capsys.readouterr().out
    assert "1. check and plan" in said
    assert "2. train" in said
    assert "3. evaluate on the test cases" in said
    assert f"report:  {run}/evaluation/test/report.html" in said
    with pytest.raises(InputError, match="there is a run of this name"):
        auto(data_list, data_list.parent, 60, bundles=BUNDLES, run_name="mine")


def test_a_training_that_fails_is_no_result(quick, tmp_path, monkeypatch):
    data_list = write_discs(tmp_path / "discs")
    monkeypatch.setattr(auto_module.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=3))
    with pytest.raises(InputError, match="training ended with status 3"):
        auto(data_list, data_list.parent, 60, device="cpu", bundles=BUNDLES)
