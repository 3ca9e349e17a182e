"""The commands that are killed anywhere: how each begins, how it goes on, and what it must come to."""

import csv
import json
import shutil
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from bad_files import voxels, write_volume
from discs import UNET, small_training, write_discs
from kill_anywhere import metrics_of, statuses
from monai.bundle import ConfigWorkflow
from run_files import last, same, weights, without_times
from test_killed_batch import FILES, tree
from threshold_bundle import write_threshold_bundle

import pipeline.handlers.checkpoints as checkpoints
from pipeline.tracking import Tracking

EPOCHS = 4
OPTIONS = {"compile": False, "learning_rate": 0.02}
POINTS = [0.02, 0.01]


class Command:
    """What there is to kill.

    Args:
        template: a folder to make, which what the command needs is copied from.
        store: an MLflow store whose tables are made.
    """

    name = ""
    in_full = 0  # which of eight chains of kills draws its pictures and makes MLflow's model

    def __init__(self, template, store):
        self.template = str(template)
        template.mkdir()
        shutil.copyfile(store, template / "mlflow.db")
        self.make(template)

    def make(self, folder):
        """Make what the command needs."""
        raise NotImplementedError

    def prepare(self, folder):
        """Give the command a folder of its own."""
        shutil.copytree(self.template, folder)

    def run(self, resume):
        """Do it, in the working directory."""
        raise NotImplementedError

    def can_resume(self, folder):
        """Whether the command is given with --resume."""
        return True

    def is_done(self, folder):
        """Whether a kill came too late to leave anything to do."""
        return False

    def state(self, folder, whole, before=None):
        """Assert what a kill must leave, and return what must not become less by the next one."""

    def compare(self, folder, whole):
        """Assert that it came to what it comes to undisturbed."""
        raise NotImplementedError


class Training(Command):
    """`python -m monai.bundle run training`."""

    name = "training"
    in_full = 1  # already the first one
    run_folder = Path("runs", "run")

    def make(self, folder):
        write_discs(folder / "discs")

    def run(self, resume):
        import monai.bundle

        if not resume:
            keep_every_epoch()
        options = {**small_training(Path("discs")), "epochs": EPOCHS, **OPTIONS, "resume": resume, "run_name": "run"}
        monai.bundle.run("training", config_file=str(UNET / "configs" / "train.json"), **options)

    def can_resume(self, folder):
        return (folder / self.run_folder / "run.json").exists()

    def is_done(self, folder):
        file = folder / self.run_folder / "run.json"
        return file.exists() and "completed_epoch" in json.loads(file.read_text())

    def state(self, folder, whole, before=None):
        """The best metric that the saved model stands for; it is the one of its epoch, and never less than before."""
        run = folder / self.run_folder
        if not (run / "models" / "model.pt").exists():
            assert before is None, "the best model is gone"
            return None
        model, checkpoint = weights(run), last(run)
        rows = last(whole.folder / self.run_folder)["trainer"]["history"]
        history = {row["epoch"]: row["val/mean_dice"] for row in rows}
        kept = {epoch: torch.load(whole.folder / f"epoch-{epoch}", weights_only=True) for epoch in history}
        epochs = [epoch for epoch in history if same(model, kept[epoch])]
        assert epochs, "the best model is of no epoch"
        best, epoch = checkpoint["best"]["epoch"], checkpoint["trainer"]["epoch"]
        assert checkpoint["best"]["metric"] == history[best] == max(history[number] for number in range(1, epoch + 1))
        behind = max([number for number in history if number < epoch], key=history.get, default=0)
        # A kill between the two saves leaves the earlier best one, and the checkpoint has the new one.
        assert best in epochs or (epoch == best and behind in epochs)
        assert before is None or history[epochs[0]] >= before
        return history[epochs[0]]

    def compare(self, folder, whole):
        ours, theirs = folder / self.run_folder, whole.folder / self.run_folder
        assert (ours / "models" / "model.pt").read_bytes() == (theirs / "models" / "model.pt").read_bytes()
        assert same(without_times(last(ours)), without_times(last(theirs)))
        assert not list(ours.rglob(".tmp-*"))
        assert files_of(ours) == files_of(theirs)
        for name in ("cases.csv", "scores.json"):
            file = Path("evaluation", "validation", name)
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()
        for file in (theirs / "configs").iterdir():
            assert (ours / "configs" / file.name).read_bytes() == file.read_bytes()
        assert statuses(folder)["run"].count("FINISHED") == 1
        assert metrics_of(folder, "run") == metrics_of(whole.folder, "run")


def keep_every_epoch():
    """Keep the weights of every epoch beside the run, to tell later which of them is the model."""
    save = checkpoints.save_tensors

    def keep(file, content):
        if file.name == "last.pt":
            torch.save(content["network"], f"epoch-{content['trainer']['epoch']}")
        save(file, content)

    checkpoints.save_tensors = keep


def files_of(folder):
    """Names of the files below a folder, but for locks and journals."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".journal"]
    return {str(file.relative_to(folder)) for file in files if not file.name.endswith("lock")}


class Prediction(Command):
    """`python -m pipeline predict --track`."""

    name = "predict"

    def make(self, folder):
        (folder / "bundle").mkdir()
        write_threshold_bundle(folder / "bundle", 3)
        for number, name in enumerate(FILES):
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            write_volume(folder / "images" / name, voxels(number))

    def run(self, resume):
        from pipeline.cli import main

        options = ["--probabilities", "--track", *(["--resume"] if resume else [])]
        main(["predict", "bundle", "images", "out", *options])

    def compare(self, folder, whole):
        assert tree(folder / "out") == tree(whole.folder / "out")
        assert rows_of(folder / "out" / "summary.csv") == rows_of(whole.folder / "out" / "summary.csv")
        assert "FINISHED" in statuses(folder)["out"]


class Inference(Prediction):
    """`python -m monai.bundle run inference`."""

    name = "inference"

    def run(self, resume):
        import monai.bundle

        options = {"input_dir": "images", "output_dir": "out", "resume": resume, "track": True}
        config = "bundle/configs/inference.json"
        monai.bundle.run("inference", config_file=config, save_probabilities=True, **options)


def rows_of(file):
    """The rows of a table, without times."""
    with open(file, newline="") as stream:
        return [{key: row[key] for key in row if not key.startswith("seconds")} for row in csv.DictReader(stream)]


class Evaluation(Command):
    """`python -m monai.bundle run evaluating`, of a run's test split."""

    name = "evaluating"
    in_full = 1

    def make(self, folder):
        write_discs(folder / "discs")
        options = {**small_training(Path("discs")), **OPTIONS, "output_dir": "runs", "run_name": "run"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(Tracking, "start", lambda *_, **__: None)
            file = str(UNET / "configs" / "train.json")
            workflow = ConfigWorkflow(file, workflow_type="training", logging_file=False, **options)
            workflow.initialize()
            workflow.run()

    def run(self, resume):
        import monai.bundle

        files = [f"runs/run/configs/{name}.json" for name in ("train", "evaluate")]
        monai.bundle.run("evaluating", config_file=files)

    def compare(self, folder, whole):
        ours, theirs = (place / "runs" / "run" for place in (folder, whole.folder))
        assert files_of(ours) == files_of(theirs)
        for name in ("cases.csv", "scores.json"):
            file = Path("evaluation", "test", name)
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()
        assert statuses(folder)["test of run"].count("FINISHED") >= 1
        assert metrics_of(folder, "test of run") == metrics_of(whole.folder, "test of run")


class SweepCommand(Command):
    """`python -m pipeline sweep`."""

    name = "sweep"

    def make(self, folder):
        write_discs(folder / "discs")
        given = {**small_training(Path("discs")), "epochs": 2, "patience": None, "compile": False}
        content = {"name": "tiny", "config_file": str(UNET / "configs" / "train.json"), "output_dir": "runs"}
        content |= {"space": {"learning_rate": POINTS}, "overrides": given}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
        (folder / "runs" / "tiny").mkdir(parents=True)
        optuna.storages.RDBStorage(f"sqlite:///{folder}/runs/tiny/study.db")

    def run(self, resume):
        from pipeline.cli import main

        main(["sweep", "sweep.yaml"])

    def compare(self, folder, whole):
        ours, theirs = folder / "runs" / "tiny", whole.folder / "runs" / "tiny"
        rows = [[{**row, "mlflow_run_id": ""} for row in rows_of(run / "results.csv")] for run in (ours, theirs)]
        assert rows[0] == rows[1]
        assert [row["state"] for row in rows[0]] == ["complete"] * len(POINTS)
        names = [f"tiny-{number:03d}" for number in range(len(POINTS))]
        for name in names:
            model = Path(name, "models", "model.pt")
            assert (ours / model).read_bytes() == (theirs / model).read_bytes()
            assert metrics_of(folder, name) == metrics_of(whole.folder, name)
        found = statuses(folder)
        assert found.keys() == {"tiny", *names}
        assert all(ends.count("FINISHED") == 1 for ends in found.values())
        assert (ours / "comparison" / "comparison.html").is_file()
