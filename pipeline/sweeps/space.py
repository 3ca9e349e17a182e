"""What a sweep varies: choices and ranges, and their points on a grid or at random."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.errors import InputError, did_you_mean

OVERLAY = "overlay"
KINDS = ("int", "float", "log")
SHAPES = "a list of choices, {int: [8, 64]}, {float: [0, 1]} or {log: [1e-5, 1e-2]}"


@dataclass(frozen=True)
class Axis:
    """One thing that a sweep varies.

    Args:
        key: a path into the config ("optimizer#lr"), or "overlay" or "overlay#<any name>".
        distribution: Optuna's own; what it gives is a label for choices, the number itself for ranges.
        choices: the values behind the labels; None for a range.
    """

    key: str
    distribution: BaseDistribution
    choices: tuple[Any, ...] | None = None

    @property
    def is_overlay(self) -> bool:
        """Whether the values are names of config files and not settings."""
        return self.key.split("#")[0] == OVERLAY

    @property
    def description(self) -> dict[str, Any]:
        """What JSON can hold of it: {"choices": [...]}, or {"low": 1e-5, "high": 0.01, "log": true, "step": null}."""
        found: dict[str, Any] = json.loads(optuna.distributions.distribution_to_json(self.distribution))["attributes"]
        return found

    def value(self, label: Any) -> Any:
        """Return the setting, or the tuple of overlays, that a point of the space stands for."""
        if self.choices is None:
            return label
        assert isinstance(self.distribution, CategoricalDistribution)
        return self.choices[self.distribution.choices.index(label)]

    def points(self) -> list[Any] | None:
        """Return all that the axis can be, in order; None for a range without steps."""
        limits = self.distribution
        if isinstance(limits, CategoricalDistribution):
            return list(limits.choices)
        assert isinstance(limits, IntDistribution | FloatDistribution)
        return None if limits.step is None else _steps(limits.low, limits.high, limits.step)

    def ends(self) -> list[Any]:
        """Return all choices, or the two ends of a range: what is worth a look before the first trial."""
        limits = self.distribution
        if isinstance(limits, CategoricalDistribution):
            return list(limits.choices)
        assert isinstance(limits, IntDistribution | FloatDistribution)
        return [limits.low, limits.high]


def read_axis(key: str, entry: Any) -> Axis:
    """Return the axis that an entry of the sweep file's `space` describes."""
    if isinstance(entry, list):
        return _read_overlays(key, entry) if key.split("#")[0] == OVERLAY else _of_choices(key, entry, entry)
    if key.split("#")[0] == OVERLAY:
        raise InputError(f"'{key}' is {entry!r}", remedy="give a list of overlays, such as [net_paper, net_compact]")
    if not isinstance(entry, Mapping):
        raise InputError(f"'{key}' is {entry!r}", remedy=f"give {SHAPES}")
    for word in entry:
        if word not in (*KINDS, "step"):
            raise InputError(f"'{key}' has an unknown word '{word}'", remedy=did_you_mean(str(word), (*KINDS, "step")))
    kinds = [word for word in entry if word in KINDS]
    if len(kinds) != 1:
        raise InputError(f"'{key}' names {' and '.join(kinds) or 'no range'}", remedy=f"give {SHAPES}")
    return Axis(key, _read_range(key, kinds[0], entry[kinds[0]], entry.get("step")))


def _read_overlays(key: str, entry: list[Any]) -> Axis:
    choices = [tuple(_names(key, choice)) for choice in entry]
    return _of_choices(key, choices, ["+".join(names) or "none" for names in choices])


def _names(key: str, choice: Any) -> list[str]:
    names = [] if choice is None else choice if isinstance(choice, list) else [choice]
    if not all(isinstance(name, str) for name in names):
        raise InputError(
            f"'{key}' holds {choice!r}", remedy="give an overlay's name, a list of names, or null for none"
        )
    return names


def _of_choices(key: str, choices: Sequence[Any], shown: Sequence[Any]) -> Axis:
    """Optuna keeps numbers, words and null; what else a setting can be is kept as its JSON."""
    plain = (str, int, float, type(None))
    labels = [label if isinstance(label, plain) else json.dumps(label) for label in shown]
    if not labels:
        raise InputError(f"'{key}' is an empty list", remedy=f"give {SHAPES}")
    twice = {str(label) for place, label in enumerate(labels) if label in labels[:place]}
    if twice:
        raise InputError(f"'{key}' has {', '.join(sorted(twice))} twice", remedy="name every choice once")
    return Axis(key, CategoricalDistribution(labels), tuple(choices))


def _read_range(key: str, kind: str, ends: Any, step: Any) -> BaseDistribution:
    numbers = (int,) if kind == "int" else (int, float)
    given = [*ends, 1 if step is None else step] if isinstance(ends, list) and len(ends) == 2 else []
    if not given or any(not isinstance(end, numbers) or isinstance(end, bool) or math.isinf(end) for end in given):
        whole = "whole " if kind == "int" else ""
        raise InputError(f"'{key}' is {{{kind}: {ends}}}", remedy=f"give two {whole}numbers, {{{kind}: [low, high]}}")
    low, high = ends
    if not low < high:
        raise InputError(f"'{key}' goes from {low} to {high}", remedy="give the lower number first")
    if kind == "log" and (low <= 0 or step is not None):
        fault = "begins at or below 0" if low <= 0 else "has a step"
        raise InputError(f"'{key}' is logarithmic and {fault}", remedy="begin above 0, without a step")
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"'{key}' has the step {step}", remedy=f"give a step above 0 and up to {high - low}")
    high = high if step is None else _steps(low, high, step)[-1]
    if kind == "int":
        return IntDistribution(low, high, step=step or 1)
    return FloatDistribution(low, high, log=kind == "log", step=step)


def _steps(low: float, high: float, step: float) -> list[Any]:
    """Return low, low + step, ... up to high, as decimals: three steps of 0.3 are 0.9 and not 0.8999999999999999."""
    first, last, width = (Decimal(str(number)) for number in (low, high, step))
    kind = int if all(isinstance(number, int) for number in (low, high, step)) else float
    return [kind(first + number * width) for number in range(int((last - first) // width) + 1)]


def size(axes: Sequence[Axis]) -> int | None:
    """Return how many points the space has, None for infinitely many."""
    counts = [points if points is None else len(points) for points in (axis.points() for axis in axes)]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return all points of a finite space, the last axis running fastest."""
    rows = itertools.product(*[axis.points() or [] for axis in axes])
    return [dict(zip([axis.key for axis in axes], row, strict=True)) for row in rows]


def draws(axes: Sequence[Axis], seed: int, count: int) -> list[dict[str, Any]]:
    """Return `count` different points (all of a space that has fewer), drawn at random.

    The first points of a longer series are those of a shorter one.
    """
    distributions = {axis.key: axis.distribution for axis in axes}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found: list[dict[str, Any]] = []
    limit = size(axes)
    while len(found) < (count if limit is None else min(count, limit)):
        point = study.ask(distributions).params
        if point not in found:
            found.append(point)
    return found


def settings(axes: Sequence[Axis], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a point by their path in the config."""
    return {axis.key: axis.value(point[axis.key]) for axis in axes if not axis.is_overlay}


def overlays(axes: Sequence[Axis], point: Mapping[str, Any]) -> list[str]:
    """Return the names of the overlays of a point, in the order of the axes; each once."""
    names = [name for axis in axes if axis.is_overlay for name in axis.value(point[axis.key])]
    return list(dict.fromkeys(names))
