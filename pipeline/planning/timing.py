"""A few steps and cases of a training on this machine: how long one takes, with everything that belongs to it."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from pipeline.console import quiet

WARM_UP, STEPS = 2, 5
CASES = 4  # that are read
WITHOUT: dict[str, Any] = {"train#handlers": [], "validate#handlers": [], "compile": False, "epochs": 1}
KEPT = {"train#dataset#cache_num": CASES, "validate#dataset#cache_num": CASES}  # reading is timed by itself
FEW = {
    "crops_per_case": 100,
    "train#dataset#data": f"$@cases.records(@dataset_dir, 'training', @fold)[:{CASES}]",
    "validate#dataset#data": f"$@cases.records(@dataset_dir, 'validation', @fold)[:{CASES}]",
}


def load_seconds(config: Path, settings: Mapping[str, Any]) -> float:
    """Return the seconds to read a training case and bring it to the network's grid and intensities.

    Args:
        config: the bundle's train.json.
        settings: overrides of it.
    """
    with quiet():
        parser = _workflow(config, settings).parser
        records = parser.get_parsed_content("train#dataset#data")
        parser.get_parsed_content("train#preprocessing")
        begun = time.perf_counter()
        parser.get_parsed_content("train#dataset")
        return (time.perf_counter() - begun) / len(records)


def step_seconds(config: Path, settings: Mapping[str, Any]) -> float:
    """Return the seconds of a training step: crop, augmentation, network, loss and optimizer.

    Args:
        config: the bundle's train.json.
        settings: overrides of it.
    """
    times = _times(config, settings, "train#trainer", WARM_UP + STEPS)
    return median(times[WARM_UP:])


def compiled_seconds(config: Path, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds of a compiled step, and those that the compilation took."""
    times = _times(config, {**settings, "compile": True}, "train#trainer", WARM_UP + STEPS)
    step = median(times[WARM_UP:])
    return step, max(sum(times[:WARM_UP]) - WARM_UP * step, 0.0)


def case_seconds(config: Path, settings: Mapping[str, Any]) -> float:
    """Return the seconds of a validation case: its windows, labels and scores."""
    times = _times(config, settings, "validate#evaluator", CASES)
    return median(times[1:] or times)


def _times(config: Path, settings: Mapping[str, Any], engine: str, most: int) -> list[float]:
    """The seconds of an engine's first iterations."""
    with quiet():
        workflow = _workflow(config, settings)
        runner: Engine = workflow.parser.get_parsed_content(engine)
        marks: list[float] = []
        runner.add_event_handler(Events.ITERATION_COMPLETED, _mark, marks, most)
        marks.append(time.perf_counter())
        runner.run()
    del runner, workflow
    gc.collect()
    return [end - begun for begun, end in pairwise(marks)]


def _workflow(config: Path, settings: Mapping[str, Any]) -> ConfigWorkflow:
    overrides = {**WITHOUT, **FEW, **settings, **KEPT}
    workflow = ConfigWorkflow(str(config), workflow_type="training", logging_file=False, **overrides)
    workflow.parser.parse(True)
    return workflow


def _mark(engine: Any, marks: list[float], most: int) -> None:
    if torch.device(engine.state.device).type == "cuda":
        torch.cuda.synchronize(engine.state.device)
    marks.append(time.perf_counter())
    if len(marks) > most:
        engine.terminate()
