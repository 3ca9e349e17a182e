"""The verb `plan`: look at the data, measure this machine for a minute, and write a bundle's settings with reasons."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from pipeline.batch.memory import free_bytes
from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import DataList, load_data_list
from pipeline.datalists.embedded import ensure_data
from pipeline.errors import InputError
from pipeline.networks.compilation import has_compiler
from pipeline.planning import geometry, rules, schedule, timing
from pipeline.planning.facts import Facts, Machine, gather
from pipeline.planning.overlay import write_overlay
from pipeline.planning.rules import Choice
from pipeline.planning.schedule import Schedule, Seconds
from pipeline.volumes.atomic import atomic_write_text

BUNDLES = {2: "unet", 3: "unet3d"}
SPEED_UP = {2: 1.4, 3: 1.0}  # of a step by compiling it, about, on a processor with bfloat16
LEAST_TO_COMPILE = {2: 240.0, 3: 1500.0}  # seconds of training from which trying it is worth its half minute


@dataclass(frozen=True)
class Plan:
    """What was decided.

    Args:
        config: the bundle's train.json.
        file: the overlay that was written.
        settings: what it sets.
        length: of the training.
        facts: that it follows from.
    """

    config: Path
    file: Path
    settings: Mapping[str, Any]
    length: Schedule
    facts: Facts


def plan(
    data_list: str | PathLike[str],
    output: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    budget: float = 3600.0,
    fold: int = 0,
    device: str | None = None,
    bundles: str | PathLike[str] = "bundles",
) -> Plan:
    """Write an overlay for a data list, and return what it says.

    Args:
        data_list: the JSON file.
        output: the overlay, YAML.
        dataset_dir: the folder that the list's paths are relative to; without one `data/<name of the list>`.
        budget: seconds from now until the trained network has been evaluated.
        fold: which fold validates.
        device: "cpu", "cuda" or "cuda:1"; None: a GPU if there is one.
        bundles: the folder that holds the bundles unet and unet3d.
    """
    begun = time.perf_counter()
    cases = load_data_list(data_list)
    folder = Path("data", cases.name) if dataset_dir is None else Path(dataset_dir)
    config = _config(Path(bundles), cases.spatial_dims)
    if not folder.is_dir() and cases.generator is None:
        raise InputError("is no folder", file=folder, remedy="give the folder of the images with --dataset_dir")
    ensure_data(cases, folder)
    report = check_cases(cases, folder, fold=fold)
    facts = gather(cases, report.fingerprints, machine(device))
    where = {"data_list": str(data_list), "dataset_dir": str(folder), "fold": fold}
    where |= {"device": device} if device else {}
    clock = Clock(budget - (time.perf_counter() - begun), facts)
    decided = choose(config, facts, where, clock)
    measured = measure(config, facts, {**where, **as_settings(decided)}, clock)
    seconds = clock.left(measured.case)
    length = _length(facts, measured, seconds)
    sections = {
        "The data": [Choice(key, value, "") for key, value in where.items()],
        "What the cases say": [*decided, *_overlays(config, facts, decided)],
        "What the time allows, as measured on this machine": _timed(facts, decided, measured, length, seconds),
    }
    file = Path(output)
    atomic_write_text(file, write_overlay(_title(cases, facts, config, file, budget), sections))
    settings = as_settings(choice for choices in sections.values() for choice in choices)
    return Plan(config, file, settings, length, facts)


def machine(device: str | None = None) -> Machine:
    """Return what this machine has; of a GPU's memory, what is free."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    free = free_bytes()
    memory = torch.cuda.mem_get_info(kind)[0] if kind.startswith("cuda") else free
    return Machine(kind.partition(":")[0], os.cpu_count() or psutil.cpu_count() or 1, memory, free)


class Clock:
    """What is left of a budget for training.

    Args:
        budget: seconds from now.
        facts: how many cases are validated and tested.
    """

    def __init__(self, budget: float, facts: Facts) -> None:
        self.end, self.facts = time.perf_counter() + budget, facts

    def left(self, case: float) -> float:
        """Return the seconds for steps and validations, where a case takes so many."""
        left = self.end - time.perf_counter()
        return schedule.training_seconds(left, case, self.facts.validation, self.facts.test)


def choose(config: Path, facts: Facts, where: Mapping[str, Any], clock: Clock) -> list[Choice]:
    """Return what the facts decide, with a smaller crop where the narrowest network could do but few steps.

    Args:
        config: the bundle's train.json.
        facts: of the data.
        where: the data's settings.
        clock: of the budget.
    """
    decided = rules.choices(facts)
    step = _step(config, with_width(schedule.WIDTHS[0], {**where, **as_settings(decided)}))
    most, least = math.prod(as_settings(decided)["crop_size"]), geometry.LEAST_VOXELS[facts.spatial_dims]
    voxels = schedule.fitting_voxels(step, clock.left(0.0), most, min(least, most))
    return decided if voxels is None else rules.choices(facts, voxels)


def measure(config: Path, facts: Facts, settings: Mapping[str, Any], clock: Clock) -> Seconds:
    """Choose the width by a few steps of each, and return what was measured.

    Args:
        config: the bundle's train.json.
        facts: of the data.
        settings: all others.
        clock: of the budget.
    """
    case = timing.case_seconds(config, with_width(schedule.WIDTHS[0], settings))
    left = clock.left(case)
    tried = facts.device == "cuda" or left >= LEAST_TO_COMPILE[facts.spatial_dims]
    compiles = tried and has_compiler()
    gain = SPEED_UP[facts.spatial_dims] if compiles else 1.0
    width, step = schedule.choose_width(lambda width: _step(config, with_width(width, settings)), left, gain)
    compiled = timing.compiled_seconds(config, with_width(width, settings)) if compiles else (None, None)
    return Seconds(step, case, width, *compiled)


def with_width(width: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the channels of a width."""
    levels = len(settings["network_def#strides"]) + 1
    return {**settings, "network_def#channels": geometry.channels(width, levels)}


def as_settings(choices: Iterable[Choice]) -> dict[str, Any]:
    """Return the values of choices by key."""
    return {choice.key: choice.value for choice in choices}


def _step(config: Path, settings: Mapping[str, Any]) -> float:
    """The seconds of a step; of one that does not fit into the GPU's memory, more than there are."""
    try:
        return timing.step_seconds(config, settings)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("inf")


def _config(bundles: Path, dims: int) -> Path:
    config = bundles / BUNDLES[dims] / "configs" / "train.json"
    if not config.is_file():
        remedy = "run this in the project's folder, or say where its bundles are with --bundles"
        raise InputError("there is no such bundle", file=config, remedy=remedy)
    return config


def _length(facts: Facts, measured: Seconds, seconds: float) -> Schedule:
    return schedule.plan_length(measured, seconds, facts.training, facts.validation, geometry.batch_size(facts))


def _overlays(config: Path, facts: Facts, decided: Sequence[Choice]) -> list[Choice]:
    """The settings of the bundle's overlays that the rules name, so that the plan is one file; their own go before."""
    already = as_settings(decided)
    found = []
    for name, why in rules.overlays(facts):
        settings = yaml.safe_load((config.parent / f"{name}.yaml").read_text(encoding="utf-8"))
        settings = {key: value for key, value in settings.items() if key not in already}
        reasons = [f"{why} ({name}.yaml)", *[f"({name}.yaml)"] * (len(settings) - 1)]
        found += [Choice(key, value, reason) for (key, value), reason in zip(settings.items(), reasons, strict=True)]
    return found


def _timed(
    facts: Facts, decided: Sequence[Choice], measured: Seconds, length: Schedule, seconds: float
) -> list[Choice]:
    channels = with_width(measured.width, as_settings(decided))["network_def#channels"]
    steps = f"{length.steps:,} steps of {length.step:.3g} s in {seconds / 60:.0f} min"
    why = f"the widest with at least {schedule.steps_needed(measured.width):,.0f} steps: {steps}"
    if measured.width == schedule.WIDTHS[0]:
        why = f"the narrowest, as the time is short: {steps}"
    tried = "not tried: the time is short, or there is no C++ compiler"
    if measured.compiled is not None:
        took = f"compiled in {measured.compiling:.0f} s"
        tried = f"a step takes {measured.compiled:.3g} s {took}, and {measured.step:.3g} s as it is"
    share = f"{measured.case * facts.validation:.0f} s for {facts.validation} cases each time"
    per_epoch = length.steps // length.epochs
    return [
        Choice("network_def#channels", channels, why),
        Choice("compile", length.compiled, tried),
        Choice("crops_per_case", length.crops_per_case, f"an epoch has {per_epoch} steps"),
        Choice("epochs", length.epochs, "as many as fill the time; the learning rate falls to 0 at the end"),
        Choice("val_interval", length.val_interval, share),
    ]


def _title(cases: DataList, facts: Facts, config: Path, file: Path, budget: float) -> list[str]:
    device = f"{facts.cores} cores" if facts.device == "cpu" else torch.cuda.get_device_name()
    counts = f"{facts.training} training, {facts.validation} validation and {facts.test} test cases"
    return [
        f"A plan for '{cases.name}': {counts}, {budget / 60:.0f} minutes on {device}.",
        "Made by python -m pipeline plan. Change what you like, and train with",
        f"    python -m monai.bundle run training --config_file \"['{config}','{file}']\"",
    ]
