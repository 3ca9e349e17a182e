"""The verb `auto`: check, plan, train, evaluate, report. Each is a command that the user could have given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from os import PathLike
from pathlib import Path

from pipeline.errors import InputError
from pipeline.planning.plan import Plan, plan


def auto(
    data_list: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    budget: float = 3600.0,
    fold: int = 0,
    device: str | None = None,
    bundles: str | PathLike[str] = "bundles",
    output_dir: str | PathLike[str] = "runs",
    run_name: str | None = None,
) -> Path:
    """Return the folder of a run that was checked, planned, trained and evaluated within a time.

    Args:
        data_list: the JSON file.
        dataset_dir: the folder that the list's paths are relative to; without one `data/<name of the list>`.
        budget: seconds from now until all is done.
        fold: which fold validates.
        device: "cpu", "cuda" or "cuda:1"; None: a GPU if there is one.
        bundles: the folder that holds the bundles unet and unet3d.
        output_dir: the folder of all runs.
        run_name: of this one; None: the list's name and the time.
    """
    begun = time.monotonic()
    name = run_name or f"{Path(data_list).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = Path(output_dir, name)
    if run.exists():
        raise InputError("there is a run of this name", file=run, remedy="choose another with --run_name")
    print(f"1. check and plan: {data_list}", flush=True)
    made = plan(data_list, Path(output_dir, f"{name}.yaml"), dataset_dir, budget, fold, device, bundles)
    print(summary(made), flush=True)
    print("2. train", flush=True)
    files = f"['{made.config}','{made.file}']"
    _run("training", files, "--output_dir", str(output_dir), "--run_name", name)
    if made.facts.test:
        print("3. evaluate on the test cases", flush=True)
        _run("evaluating", f"['{run}/configs/train.json','{run}/configs/evaluate.json']")
    minutes = (time.monotonic() - begun) / 60
    split = "test" if made.facts.test else "validation"
    print(f"{minutes:.1f} of {budget / 60:.0f} minutes\nplan:    {made.file}")
    print(f"report:  {run}/evaluation/{split}/report.html")
    print(f"predict: python -m pipeline predict {run} IN OUT")
    return run


def summary(made: Plan) -> str:
    """Return a plan's main points in a few lines."""
    shown = ("spacing", "crop_size", "network_def#channels", "batch_size", "epochs")
    points = [f"{key.rpartition('#')[2]} {made.settings[key]}" for key in shown if key in made.settings]
    steps = f"{made.length.steps:,} steps of {made.length.step:.3g} s"
    return f"   {', '.join(points)}: {steps}\n   reasons: {made.file}"


def _run(workflow: str, files: str, *arguments: str) -> None:
    """Run a workflow of a bundle in a process of its own, as the user would."""
    command = [sys.executable, "-m", "monai.bundle", "run", workflow, "--config_file", files, *arguments]
    print(f"   {shlex.join(['python', *command[1:]])}", flush=True)
    done = subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, check=False)
    if done.returncode:
        raise InputError(f"{workflow} ended with status {done.returncode}", remedy="see what it says above")
