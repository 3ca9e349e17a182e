"""What a system of versus.py is asked: which cases, how long, and where its files go. Parent and children share it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.datalists.datalist import DataList, load_data_list

FOLD = 0  # that validates; the list's test cases are held back


@dataclass(frozen=True)
class Job:
    """One run of a system.

    Args:
        file: the data list.
        data: the folder that its paths begin at.
        budget: wall clock in seconds, from the start of the training's command to the final model.
        work: the folder of the run, which the system may fill as it likes.
    """

    file: Path
    data: Path
    budget: float
    work: Path

    @cached_property
    def cases(self) -> DataList:
        """The data list."""
        return load_data_list(self.file)

    @property
    def predictions(self) -> Path:
        """Where a system leaves `<id>.png` or `<id>.nii.gz`, label maps, and `<id>.npy`, P(cell) as float16."""
        return self.work / "predictions"

    @property
    def wants_probabilities(self) -> bool:
        """Whether thresholds are tried on the prediction, as they are for membranes."""
        return self.cases.spatial_dims == 2 and self.cases.label_kind == "classes"

    def records(self, split: str) -> list[dict[str, Any]]:
        """The cases of a split with the paths of their files."""
        return self.cases.records(self.data, split, FOLD)

    def command(self, script: str, stage: str) -> list[str]:
        """The words after `python` that `work` understands."""
        places = ["--list", str(self.file), "--data", str(self.data), "--work", str(self.work)]
        return [str(Path(__file__).with_name(script)), stage, "--budget", str(self.budget), *places]

    def report(self) -> dict[str, Any]:
        """What the system said of its training: steps, parameters, versions, perhaps a note."""
        return json.loads((self.work / "report.json").read_text())

    def write_report(self, **facts: Any) -> None:
        """Say it."""
        (self.work / "report.json").write_text(json.dumps(facts))


def work(train: Callable[[Job], None], predict: Callable[[Job], None]) -> None:
    """Be a child of versus.py: read the command line, and train, or predict the test cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("train", "predict"))
    parser.add_argument("--budget", type=float, required=True)
    for place in ("--list", "--data", "--work"):
        parser.add_argument(place, type=Path, required=True)
    options = parser.parse_args()
    job = Job(options.list, options.data, options.budget, options.work)
    if options.stage == "train":
        train(job)
    else:
        job.predictions.mkdir(exist_ok=True)
        predict(job)
