"""Ours, nnU-Net v2 and a stock MONAI bundle: the same data, split, machine and wall clock, one run of each.

Every run is a process of its own that goes from a data list to the final model within a budget, and then predicts the
test cases, which is timed by itself. Nobody is tuned: ours is `auto`, nnU-Net plans by its own rules and has its
schedule shortened to the budget (versus_nnunet.py), MONAI's is what the bundles of its model zoo do (versus_monai.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine
from versus_job import FOLD, Job
from versus_scores import SCORES, TITLES, label_file, scores
from versus_watch import watch

from pipeline.planning.schedule import read_budget
from pipeline.volumes.reading import read_volume

ROOT = Path(__file__).parents[1]
GRACE = 1.5  # budgets after which a training is killed
PREDICTION_LIMIT = 3600.0  # seconds; against hangs
Row = dict[str, Any]


@dataclass(frozen=True)
class Child:
    """A system that a script beside this one drives.

    Args:
        script: understands what `versus_job.work` does.
        models: glob of the files that are a usable model.
    """

    script: str
    models: str

    def train(self, job: Job) -> list[str]:
        """The words after `python` that train."""
        return job.command(self.script, "train")

    def predict(self, job: Job) -> list[str]:
        """The words after `python` that predict the test cases."""
        return job.command(self.script, "predict")

    def report(self, job: Job) -> Row:
        """What is known of the training."""
        return job.report()


@dataclass(frozen=True)
class Ours:
    """Our own, by the commands that a user gives."""

    models: str = "runs/run/models/model.pt"

    def train(self, job: Job) -> list[str]:
        """`auto`, which also evaluates the test cases and draws a report within the budget; the others need not."""
        data = ["--dataset_dir", str(job.data), "--fold", str(FOLD), "--bundles", str(ROOT / "bundles")]
        run = ["--budget", f"{job.budget:g}s", "--output_dir", "runs", "--run_name", "run"]
        return ["-m", "pipeline", "auto", str(job.file), *data, *run]

    def predict(self, job: Job) -> list[str]:
        """`predict` of a list of files."""
        (job.work / "test.txt").write_text("".join(f"{case['image']}\n" for case in job.records("test")))
        probabilities = ["--probabilities"] if job.wants_probabilities else []
        return ["-m", "pipeline", "predict", "runs/run", "test.txt", "written", *probabilities]

    def report(self, job: Job) -> Row:
        """What the last checkpoint knows; the predictions go where the others leave theirs."""
        for case in job.records("test"):
            self._collect(job, case)
        run = job.work / "runs" / "run"
        last = torch.load(run / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
        steps = next(iter(last["optimizer"]["state"].values()))["step"]
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        parameters = sum(value.numel() for name, value in last["network"].items() if not name.endswith(buffers))
        return {"steps": int(steps), "parameters": parameters, "versions": {"monai": version("monai")}}

    def _collect(self, job: Job, case: Row) -> None:
        stem = Path(case["image"]).name.split(".")[0]
        (folder,) = {file.parent for file in (job.work / "written").rglob(f"{stem}.*")}
        labels = label_file(folder, stem)
        job.predictions.mkdir(exist_ok=True)
        shutil.copyfile(labels, job.predictions / labels.name.replace(stem, case["id"], 1))
        if job.wants_probabilities:
            cell = read_volume(folder / f"{stem}_prob.tif", 2).array[-1]
            np.save(job.predictions / f"{case['id']}.npy", cell.astype(np.float16))


SYSTEMS: dict[str, Ours | Child] = {
    "ours": Ours(),
    "nnunet": Child("versus_nnunet.py", "results/**/checkpoint_*.pth"),
    "monai": Child("versus_monai.py", "models/*.pt"),
}


def run(name: str, job: Job, paths: Sequence[Path] = ()) -> Row:
    """Train and predict with one system, and return what it came to, or why it came to nothing.

    Args:
        name: of the system.
        job: what it is asked.
        paths: folders that it may import from, beside this project.
    """
    system, env = SYSTEMS[name], environment(paths)
    row: Row = {"system": name, "set": job.cases.name, "budget_s": job.budget}
    facts = {"machine": device(), "date": date.today().isoformat(), "versions": {"torch": torch.__version__}}
    trained = watch([sys.executable, *system.train(job)], job.work, GRACE * job.budget, system.models, env)
    row |= {"first_model_s": _short(trained.first_model), "peak_gib": _short(trained.peak)}
    row |= {"gpu_peak_gib": _short(trained.gpu_peak)}
    if trained.failure:
        return row | {"failure": f"training {trained.failure}"} | facts
    predicted = watch([sys.executable, *system.predict(job)], job.work, PREDICTION_LIMIT, env=env)
    row |= {"final_model_s": _short(trained.seconds), "predict_s": _short(predicted.seconds)}
    row["peak_gib"] = _short(max(trained.peak, predicted.peak))
    if predicted.failure:
        return row | {"failure": f"prediction {predicted.failure}"} | facts
    return row | _outcome(system, job, facts)


def _outcome(system: Ours | Child, job: Job, facts: Row) -> Row:
    """The scores and what the system reports; predictions that cannot be read are its failure, too."""
    try:
        report = system.report(job)
        found = scores(job)
    except Exception as error:
        return {"failure": f"scoring: {type(error).__name__}: {error}"} | facts
    versions = facts["versions"] | report.pop("versions", {})
    return {"scores": found} | report | facts | {"versions": versions}


def _short(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 2)


def environment(paths: Sequence[Path]) -> dict[str, str]:
    """For all systems alike: threads that wait do not spin, and what is printed last is the last of the log."""
    already = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    folders = [str(ROOT), *(str(path.resolve()) for path in paths), *already]
    return os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(folders)}


def device() -> str:
    """The processor, and the GPU where there is one, which all systems then use."""
    return f"{machine()}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else machine()


def run_grid(options: argparse.Namespace) -> None:
    """Append the runs that the file does not hold yet; the systems take turns, so that a busy hour slows all alike."""
    done = {(row["system"], row["set"], row["budget_s"]) for row in read_rows(options.runs)}
    grid = list(itertools.product(options.budgets, options.sets, options.systems))
    for place, (budget, data_set, name) in enumerate(grid, start=1):
        if (name, data_set, budget) in done:
            continue
        with work_folder(options.work, f"{name}-{data_set}-{budget:g}s") as folder:
            file, data = options.lists / f"{data_set}.json", options.data / data_set
            row = run(name, Job(file.resolve(), data.resolve(), budget, folder), options.nnunet)
        with options.runs.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        came_to = row.get("failure") or row["scores"]
        print(f"{place}/{len(grid)} {name}, {data_set}, {budget:g} s: {came_to}", flush=True)


@contextmanager
def work_folder(parent: Path | None, name: str) -> Iterator[Path]:
    """An empty folder: one of this name that stays, or a temporary one."""
    if parent is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    folder = parent.resolve() / name
    folder.mkdir(parents=True)
    yield folder


def read_rows(file: Path) -> list[Row]:
    """The runs that stand in a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table for each data set, and what there is to say about single runs."""
    return "\n\n".join(_table(name, found) for name in SCORES if (found := [r for r in rows if r["set"] == name]))


COLUMNS = {
    "first_model_s": ("s to first model", ".0f"),
    "final_model_s": ("s to final model", ".0f"),
    "predict_s": ("s to predict", ".0f"),
    "peak_gib": ("peak GiB", ".1f"),
    "gpu_peak_gib": ("of the GPU", ".1f"),
    "steps": ("steps", ",.0f"),
    "parameters": ("parameters", ",.0f"),
}


def _table(data_set: str, rows: Sequence[Row]) -> str:
    measures = list(dict.fromkeys(score for row in rows for score in row.get("scores", {}))) or ["dice"]
    on_gpu = any(row.get("gpu_peak_gib") is not None for row in rows)
    columns = {key: column for key, column in COLUMNS.items() if on_gpu or key != "gpu_peak_gib"}
    titles = ["system", "budget", *(TITLES[score] for score in measures), *(title for title, _ in columns.values())]
    lines = [f"**{data_set}**", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in sorted(rows, key=lambda row: (row["budget_s"], list(SYSTEMS).index(row["system"]))):
        cells = [_cell(row.get("scores", {}).get(score), ".3f") for score in measures]
        cells += [_cell(row.get(key), form) for key, (_, form) in columns.items()]
        lines.append(f"| {row['system']} | {row['budget_s'] / 60:g} min | {' | '.join(cells)} |")
    for row in rows:
        for remark in filter(None, (row.get("failure"), row.get("note"), _late(row))):
            lines += ["", f"{row['system']}, {row['budget_s'] / 60:g} min: {remark}"]
    return "\n".join(lines)


def _late(row: Row) -> str | None:
    over = (row.get("final_model_s") or 0.0) - row["budget_s"]
    return f"took {over:.0f} s more than its budget" if over >= 1 else None


def _cell(figure: float | None, form: str) -> str:
    return "–" if figure is None else format(figure, form)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder that holds a folder for each set")
    parser.add_argument("--lists", type=Path, default=ROOT / "data_lists", help="the data lists' folder (data_lists)")
    parser.add_argument("--sets", nargs="+", choices=SCORES, default=list(SCORES), help="default: all")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="default: all")
    parser.add_argument("--budgets", nargs="+", type=read_budget, default=[600.0, 1800.0], help="default: 10min 30min")
    parser.add_argument("--nnunet", nargs="+", type=Path, default=[], help="folders that nnunetv2 is imported from")
    parser.add_argument("--work", type=Path, help="keep what the systems leave in this folder (a temporary one)")
    parser.add_argument("--runs", type=Path, required=True, help="JSON lines, one per run; what stands there is kept")
    parser.add_argument("--table", action="store_true", help="print the tables of the runs that are there")
    options = parser.parse_args(arguments)
    if options.data is not None:
        check(parser, options)
        run_grid(options)
    if options.table:
        print(table(read_rows(options.runs)))


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End at once where a run would fail for want of data or of nnU-Net."""
    missing = [str(options.data / name) for name in options.sets if not (options.data / name).is_dir()]
    if missing:
        parser.error(f"there is no {', no '.join(missing)}")
    places = any((folder / "nnunetv2").is_dir() for folder in options.nnunet)
    if "nnunet" in options.systems and not places and find_spec("nnunetv2") is None:
        parser.error("nnunetv2 cannot be found: pip install it into a folder of its own, and name that with --nnunet")


if __name__ == "__main__":
    main()
