"""How wide a network is and how long it learns, for the time that there is and the seconds that were measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import InputError

WIDTHS = (16, 32)  # channels of the first level: 32 are nnU-Net's; 8 take processors as long as 16
STEPS_OF_16 = 1_000  # that a network of 16 first channels needs to get anywhere; one twice as wide needs four times
STEPS_OF_AN_EPOCH = 50  # so that the learning rate falls smoothly
LEAST_EPOCHS, VALIDATIONS = 10, 12
VALIDATION_SHARE = 0.08  # of the training's time, for the validations on its way
LEAST_BUDGET = 120.0  # seconds
LEAST_STEPS = 100  # with fewer nothing is learnt
TRAINING_SHARE = 0.93  # of the time that is left: other programs use this machine too
START = 15.0  # seconds to import everything, to check the list once more and to open MLflow
END = 20.0  # seconds for the bundle, its report and its pictures
UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


@dataclass(frozen=True)
class Seconds:
    """What was measured on this machine.

    Args:
        step: of the training, with the network of `width`.
        case: to validate one.
        width: first channels of the network.
        compiled: the same step compiled; None where that was not tried.
        compiling: to compile; None likewise.
    """

    step: float
    case: float
    width: int
    compiled: float | None = None
    compiling: float | None = None

    @property
    def quickest(self) -> float:
        """The seconds of a step, compiled or not."""
        return self.step if self.compiled is None else min(self.step, self.compiled)


@dataclass(frozen=True)
class Schedule:
    """The length of a training.

    Args:
        epochs: that fill the time.
        crops_per_case: of an epoch, below 1 where there are more cases than an epoch has samples.
        val_interval: epochs between two validations.
        compiled: whether compiling saves more than it takes.
        step: seconds of a step then.
        steps: of all epochs.
    """

    epochs: int
    crops_per_case: float
    val_interval: int
    compiled: bool
    step: float
    steps: int


def read_budget(words: str) -> float:
    """Return the seconds of a time such as "30min", "1h30min" or "90s"."""
    text = words.strip().lower().replace(" ", "")
    parts = PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text or any(u not in UNITS for _, u in parts):
        raise InputError(f"budget '{words}' is no time", remedy="say 30min, 2h or 1h30min")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds < LEAST_BUDGET:
        remedy = f"give {LEAST_BUDGET / 60:g}min or more"
        raise InputError(f"a budget of {seconds:g} s is spent on starting and evaluating", remedy=remedy)
    return seconds


def choose_width(measure: Callable[[int], float], seconds: float, speed_up: float = 1.0) -> tuple[int, float]:
    """Return the widest network that can do enough steps in the time, and the seconds of a step.

    Args:
        measure: from first channels to the seconds of a step.
        seconds: of training.
        speed_up: what compiling is expected to bring.
    """
    best = WIDTHS[0], measure(WIDTHS[0])
    for width in WIDTHS[1:]:
        # A wider one costs more than in proportion: where this one has no room for it, the next is not tried.
        if seconds * speed_up / (best[1] * width / best[0]) < steps_needed(width):
            break
        step = measure(width)
        if seconds * speed_up / step < steps_needed(width):
            break
        best = width, step
    return best


def fitting_voxels(step: float, seconds: float, most: int, least: int) -> int | None:
    """Return how many voxels a crop may have for the narrowest network to do enough steps; None: as many as it has.

    Args:
        step: seconds of one with crops of `most` voxels.
        seconds: of training.
        most: voxels of a crop.
        least: that it keeps in any case.
    """
    share = seconds / step / steps_needed(WIDTHS[0])
    return None if share >= 1 else max(int(most * share), least)


def steps_needed(width: int) -> float:
    """Steps below which a network of so many first channels is not worth its time."""
    return STEPS_OF_16 * (width / 16) ** 2


@dataclass(frozen=True)
class Around:
    """What a training needs beside its steps.

    Args:
        load: seconds to read and prepare a case.
        kept: training and validation cases that are read at the start and stay in memory.
        validation: cases; the report looks at them twice.
        test: cases that are evaluated afterwards.
    """

    load: float
    kept: int
    validation: int
    test: int

    def seconds(self, case: float) -> float:
        """The seconds of all this, where a case takes so many to validate."""
        tested = START + (self.load + case) * self.test if self.test else 0.0
        return START + END + self.load * self.kept + case * 2 * self.validation + tested


def training_seconds(budget: float, around: float) -> float:
    """Return what is left of a budget for steps and validations."""
    return max(TRAINING_SHARE * (budget - around), 0.0)


def check_time(budget: float, around: float, step: float) -> None:
    """Raise unless there is time for `LEAST_STEPS`.

    Args:
        budget: seconds from now.
        around: those that are not for training.
        step: seconds of one.
    """
    if training_seconds(budget, around) >= LEAST_STEPS * step:
        return
    if math.isinf(around + step):
        raise InputError("not even the narrowest network fits into the GPU's memory", remedy="free it, or --device cpu")
    least = math.ceil((around + LEAST_STEPS * step / TRAINING_SHARE) / 60)
    reason = (
        f"of {budget:.0f} s that are left, starting, reading and evaluating take {around:.0f}, and a step {step:.2g}: "
        f"there is no time for {LEAST_STEPS} steps"
    )
    raise InputError(reason, remedy=f"give --budget {least + 1}min or more, or validate and test fewer cases")


def plan_length(measured: Seconds, seconds: float, training: int, validation: int, batch_size: int) -> Schedule:
    """Fill the time with epochs.

    Args:
        measured: on this machine.
        seconds: of training, its validations included.
        training: number of cases.
        validation: number of cases.
        batch_size: crops of a step.
    """
    step, compiled, rest = measured.step, False, seconds
    if measured.compiled is not None and measured.compiling is not None:
        left = seconds - measured.compiling
        if left / measured.compiled > seconds / measured.step:
            step, compiled, rest = measured.compiled, True, left
    steps = int((1 - VALIDATION_SHARE) * rest / step)
    per_epoch = max(min(STEPS_OF_AN_EPOCH, steps // LEAST_EPOCHS), 1)
    crops = per_epoch * batch_size / training
    crops = float(math.ceil(crops)) if crops > 1 else math.ceil(100 * crops) / 100
    per_epoch = max(math.ceil(max(round(training * crops), 1) / batch_size), 1)
    epochs = max(steps // per_epoch, 1)
    affordable = VALIDATION_SHARE * rest / max(measured.case * validation, 1e-3)
    validations = max(1, min(VALIDATIONS, int(affordable), epochs))
    interval = math.ceil(epochs / validations)
    return Schedule(epochs, crops, interval, compiled, step, epochs * per_epoch)
