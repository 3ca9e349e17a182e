"""Sweeps for tests: their files, and trainings that take no time."""

import csv
import json
from pathlib import Path

import optuna
import yaml
from discs import UNET, small_training

from pipeline.sweeps.sweep_file import read_sweep

TRAIN = str(UNET / "configs" / "train.json")
POINTS = {"batch_size": [1, 2, 4], "learning_rate": [0.1, 0.2]}


def write_sweep(folder, name="tiny", **content):
    """Write a sweep file: by default a grid of six points."""
    file = folder / "sweep.yaml"
    content = {"name": name, "config_file": TRAIN, "space": POINTS, "output_dir": str(folder / "runs")} | content
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def make_sweep(folder, trials=None, **content):
    return read_sweep(write_sweep(folder, **content), trials)


def small(discs, **more):
    """Overrides that let a trial train in about a second."""
    return {**small_training(discs), "epochs": 1, "patience": None, **more}


def leave_scores(run, scores, **facts):
    """Leave what a training leaves that has ended: the table of its cases, and facts."""
    folder = run / "evaluation" / "validation"
    folder.mkdir(parents=True)
    with open(folder / "cases.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "mean_dice"])
        writer.writerows([case, "" if score is None else score] for case, score in scores.items())
    (folder / "scores.json").write_text(json.dumps({"cases": len(scores), "scores": {}}))
    (run / "run.json").write_text(json.dumps({"completed_epoch": 1, **facts}))


def score_of(params):
    """What `instead_of_training` makes of a point: best at batch_size 2 and the highest rate."""
    return params["learning_rate"] - abs(params["batch_size"] - 2)


class InsteadOfTraining:
    """Stands in for SweepTrial._train: knows the score at once, and goes wrong where it is told to.

    Args:
        wrong: by number of the trial, the error to raise; each once.
    """

    def __init__(self, wrong=()):
        self.wrong, self.trained = dict(wrong), []

    def __call__(self, trial, run: Path, fold, is_first):
        number = trial.trial.user_attrs["number"]
        if number in self.wrong:
            raise self.wrong.pop(number)
        self.trained.append(number)
        leave_scores(run, {"one": score_of(trial.trial.params)})

    def install(self, monkeypatch):
        monkeypatch.setattr("pipeline.sweeps.trial.SweepTrial._train", lambda *args, **more: self(*args, **more))
        return self


def values(study):
    """What the last attempt at each trial came to, by number."""
    return {trial.user_attrs["number"]: trial.value for trial in study.trials()}


def points(study):
    return [trial.params for trial in study.trials()]


optuna.logging.set_verbosity(optuna.logging.ERROR)
