"""The verb `plan`: look at the data, measure this machine for a minute, and write a bundle's settings with reasons."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from pipeline.datalists.foreground import foreground_intensities
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
    end = time.perf_counter() + budget
    where = machine(device)
    cases = load_data_list(data_list)
    folder = Path("data", cases.name) if dataset_dir is None else Path(dataset_dir)
    config = _config(Path(bundles), cases.spatial_dims)
    if not folder.is_dir() and cases.generator is None:
        raise InputError("is no folder", file=folder, remedy="give the folder of the images with --dataset_dir")
    ensure_data(cases, folder)
    report = check_cases(cases, folder, fold=fold)
    facts = gather(cases, report.fingerprints, where)
    data = {"data_list": str(data_list), "dataset_dir": str(folder), "fold": fold}
    data |= {"device": device} if device else {}
    overlays = _overlays(config, facts, lambda: foreground_intensities(cases, folder, fold))
    clock = Clock(config, facts, {**as_settings(overlays), **data}, end)
    decided = choose(clock)
    measured = measure(clock, as_settings(decided))
    seconds = clock.left(measured.case)
    schedule.check_time(end - time.perf_counter(), clock.around.seconds(measured.case), measured.quickest)
    length = _length(facts, measured, seconds)
    already = as_settings(decided)
    sections = {
        "The data": [Choice(key, value, "") for key, value in data.items()],
        "What the cases say": [*decided, *(choice for choice in overlays if choice.key not in already)],
        "What the time allows, as measured on this machine": _timed(facts, decided, measured, length, seconds),
    }
    file = Path(output)
    atomic_write_text(file, write_overlay(_title(cases, facts, config, file, budget, device), sections))
    settings = as_settings(choice for choices in sections.values() for choice in choices)
    return Plan(config, file, settings, length, facts)


def machine(device: str | None = None) -> Machine:
    """Return what this machine has; of a GPU's memory, what is free."""
    there = torch.cuda.device_count()
    name = device or ("cuda" if there else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise InputError(f"device '{name}' is none that is planned for", remedy="say cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= there:
        reason = f"device '{name}': this machine has {there or 'no'} CUDA device{'s' if there > 1 else ''}"
        raise InputError(reason, remedy="say --device cpu" if not there else f"say cuda:0 to cuda:{there - 1}")
    free = free_bytes()
    memory = torch.cuda.mem_get_info(name)[0] if kind == "cuda" else free
    return Machine(kind, os.cpu_count() or psutil.cpu_count() or 1, memory, free)


class Clock:
    """Times the bundle with a plan's settings, and knows what is left for training.

    Args:
        config: the bundle's train.json.
        facts: of the data.
        fixed: settings that are decided.
        end: of the budget, by `time.perf_counter`.
    """

    def __init__(self, config: Path, facts: Facts, fixed: Mapping[str, Any], end: float) -> None:
        self.config, self.facts, self.fixed, self.end = config, facts, fixed, end
        choices = with_width(schedule.WIDTHS[0], as_settings(rules.choices(facts)))
        self.load = timing.load_seconds(config, {**fixed, **choices})
        kept = [choices[f"{part}#dataset#cache_num"] for part in ("train", "validate")]
        read = [1 - have / max(cases, 1) for have, cases in zip(kept, (facts.training, facts.validation), strict=True)]
        self.reading, self.reading_case = self.load * geometry.batch_size(facts) * read[0], self.load * read[1]
        self.around = schedule.Around(self.load, sum(kept), facts.validation, facts.test)

    def left(self, case: float) -> float:
        """Return the seconds for steps and validations, where a case takes so many."""
        return schedule.training_seconds(self.end - time.perf_counter(), self.around.seconds(case))

    def step(self, settings: Mapping[str, Any]) -> float:
        """Return the seconds of a step; of one that does not fit into the GPU's memory, more than there are."""
        return _measured(timing.step_seconds, self.config, {**self.fixed, **settings}) + self.reading

    def case(self, settings: Mapping[str, Any]) -> float:
        """Return the seconds to validate a case."""
        return _measured(timing.case_seconds, self.config, {**self.fixed, **settings}) + self.reading_case

    def compiled(self, settings: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return the seconds of a compiled step and of compiling; None where that does not fit into memory."""
        try:
            step, compiling = timing.compiled_seconds(self.config, {**self.fixed, **settings})
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None, None
        return step + self.reading, compiling


def choose(clock: Clock) -> list[Choice]:
    """Return what the facts decide, with a smaller crop where the narrowest network could do but few steps."""
    decided = rules.choices(clock.facts)
    settings = as_settings(decided)
    step = clock.step(with_width(schedule.WIDTHS[0], settings))
    most, least = math.prod(settings["crop_size"]), geometry.LEAST_VOXELS[clock.facts.spatial_dims]
    voxels = schedule.fitting_voxels(step, clock.left(0.0), most, min(least, most))
    return decided if voxels is None else rules.choices(clock.facts, voxels)


def measure(clock: Clock, settings: Mapping[str, Any]) -> Seconds:
    """Choose the width by a few steps of each, and return what was measured.

    Args:
        clock: of the budget.
        settings: all others.
    """
    facts = clock.facts
    case = clock.case(with_width(schedule.WIDTHS[0], settings))
    left = clock.left(case)
    tried = facts.device == "cuda" or left >= LEAST_TO_COMPILE[facts.spatial_dims]
    compiles = tried and has_compiler()
    gain = SPEED_UP[facts.spatial_dims] if compiles else 1.0
    width, step = schedule.choose_width(lambda width: clock.step(with_width(width, settings)), left, gain)
    if width != schedule.WIDTHS[0]:
        case = clock.case(with_width(width, settings))
    compiled = clock.compiled(with_width(width, settings)) if compiles else (None, None)
    return Seconds(step, case, width, *compiled)


def with_width(width: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the channels of a width."""
    levels = len(settings["network_def#strides"]) + 1
    return {**settings, "network_def#channels": geometry.channels(width, levels)}


def as_settings(choices: Iterable[Choice]) -> dict[str, Any]:
    """Return the values of choices by key."""
    return {choice.key: choice.value for choice in choices}


def _measured(measure: Callable[[Path, Mapping[str, Any]], float], config: Path, settings: Mapping[str, Any]) -> float:
    try:
        return measure(config, settings)
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


def _overlays(config: Path, facts: Facts, statistics: Callable[[], dict[str, float]]) -> list[Choice]:
    """The settings of the bundle's overlays that the rules name, so that the plan is one file.

    Args:
        config: the bundle's train.json.
        facts: of the data.
        statistics: reads the training cases for `foreground`, so that the training need not.
    """
    found = []
    for name, why in rules.overlays(facts):
        settings = yaml.safe_load((config.parent / f"{name}.yaml").read_text(encoding="utf-8"))
        if "foreground" in settings:
            settings["foreground"] = statistics()
        reasons = [f"{why} ({name}.yaml)", *[f"belongs to that ({name}.yaml)"] * (len(settings) - 1)]
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


def _title(cases: DataList, facts: Facts, config: Path, file: Path, budget: float, name: str | None) -> list[str]:
    device = f"{facts.cores} cores" if facts.device == "cpu" else torch.cuda.get_device_name(name)
    counts = f"{facts.training} training, {facts.validation} validation and {facts.test} test cases"
    return [
        f"A plan for '{cases.name}': {counts}, {budget / 60:.0f} minutes on {device}.",
        "Made by python -m pipeline plan. Change what you like, and train with",
        f"    python -m monai.bundle run training --config_file \"['{config}','{file}']\"",
    ]
