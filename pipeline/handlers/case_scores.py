"""Scores of every case of a validation or test split, and their means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from monai.engines.workflow import Workflow

from pipeline import ranks
from pipeline.errors import InputError
from pipeline.metrics.overlap import accuracy, dice, iou
from pipeline.metrics.slice_details import SliceDetails

Measures = Mapping[str, Callable[..., Any]]
NO_SCORES = ("case", "data")  # columns of a table of cases: its name, and the digest of its files


class CaseScores(Metric):
    """The key metric of an evaluator: mean over cases of the mean Dice over the case's foreground classes.

    A class that the truth of a case lacks is n/a there (nan): left out of means and counted, never 0 and never 1. The
    rows of all cases stand in `engine.state.metric_details["cases"]`, the other means in `engine.state.metrics`. Beside
    Dice, IoU and accuracy, rows have what functions of `pipeline.metrics` say, under the names that they are given.

    Args:
        class_names: names by index, background first.
        surface_measures: (truth, prediction, classes, spacing=...) of class indices -> a number for each class; an
            infinite distance, where the prediction lacks the class, counts as the diagonal of the image.
        probability_measures: (truth, prediction) of the foreground's mask and probability -> a number; or
            `SliceDetails`, where one threshold serves all cases: the engine's metric of that name is of them as one
            stack, and rows have what each case comes to by itself, as `<name>_own_threshold`.
        instance_measures: (truth, prediction) of object ids, `label_instances` and `pred_instances` -> a number.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        surface_measures: Measures | None = None,
        probability_measures: Measures | None = None,
        instance_measures: Measures | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self.surface_measures = surface_measures or {}
        self.probability_measures = probability_measures or {}
        self.instance_measures = instance_measures or {}
        super().__init__()

    def reset(self) -> None:
        """Forget the cases."""
        self.rows: list[dict[str, Any]] = []
        self.details: list[dict[str, Any]] = []

    def update(self, output: Mapping[str, Any]) -> None:
        """Score one case: its `id`, `label` and `pred` (1, *spatial), and what the measures need besides."""
        truth, prediction = _array(output, "label"), _array(output, "pred")
        row = {"case": output["id"]}
        for name, measure in (("dice", dice), ("iou", iou)):
            row |= self._of_classes(name, measure(truth, prediction, len(self.class_names)))
        row["accuracy"] = accuracy(truth, prediction)
        if self.surface_measures:
            row |= self._surface_row(truth, prediction, _spacing(output["label"], truth.ndim))
        if self.probability_measures:
            probabilities = _array(output, "probabilities", slice(None))
            foreground = probabilities[0] if len(probabilities) == 1 else 1 - probabilities[0]
            row |= self._probability_row(output["id"], truth > 0, foreground)
        if self.instance_measures:
            row |= _scores(self.instance_measures, _array(output, "label_instances"), _array(output, "pred_instances"))
        self.rows.append(row)

    def _surface_row(self, truth: np.ndarray, prediction: np.ndarray, spacing: np.ndarray) -> dict[str, float]:
        diagonal = float(np.linalg.norm((np.array(truth.shape) - 1) * spacing))
        row: dict[str, float] = {}
        for name, measure in self.surface_measures.items():
            scores = measure(truth, prediction, len(self.class_names), spacing=spacing)
            row |= self._of_classes(name, np.where(np.isinf(scores), diagonal, scores))
        return row

    def _probability_row(self, case: str, truth: np.ndarray, foreground: np.ndarray) -> dict[str, float]:
        found = {name: measure(truth, foreground) for name, measure in self.probability_measures.items()}
        details = {name: value for name, value in found.items() if isinstance(value, SliceDetails)}
        self.details.append({"case": case, **details})
        return {f"{name}_own_threshold" if name in details else name: float(value) for name, value in found.items()}

    def _of_classes(self, name: str, scores: np.ndarray) -> dict[str, float]:
        labels = [f"{name}/{label}" for label in self.class_names[1:]]
        return {f"mean_{name}": _mean(scores[1:]), **dict(zip(labels, scores[1:].tolist(), strict=True))}

    def iteration_completed(self, engine: Workflow) -> None:  # type: ignore[override]
        """Score the batch that the engine has just predicted."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update({**batch, **output})

    def compute(self) -> float:
        """Return the key metric of what was seen so far."""
        return _mean([row["mean_dice"] for row in self.rows])

    def completed(self, engine: Workflow, name: str) -> None:  # type: ignore[override]
        """Give the engine the means, the scores of the stack, and the rows of all ranks."""
        self.rows, self.details = _of_all_ranks(self.rows), _of_all_ranks(self.details)
        engine.state.metric_details["cases"] = self.rows
        engine.state.metric_details["stack"] = stack_scores(self.details)
        engine.state.metrics[name] = self.compute()
        engine.state.metrics.update(mean_scores(self.rows))
        engine.state.metrics.update(engine.state.metric_details["stack"])


def mean_scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each score over the cases that have it."""
    names = [key for key in rows[0] if key not in NO_SCORES] if rows else []
    return {name: _mean([row[name] for row in rows]) for name in names}


def stack_scores(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each measure of the slices of all cases as one stack, from the `SliceDetails` of each case."""
    names = [key for key in details[0] if key != "case"] if details else []
    return {name: float(reduce(add, [of_case[name] for of_case in details])) for name in names}


def higher_is_better(current: float, best: float) -> bool:
    """Compare key metrics: a number beats n/a, and n/a beats nothing."""
    return current > best or (np.isnan(best) and not np.isnan(current))


def _scores(measures: Measures, truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    return {name: float(measure(truth, prediction)) for name, measure in measures.items()}


def _array(output: Mapping[str, Any], key: str, channels: int | slice = 0) -> np.ndarray:
    """Return one channel, or several, of what an evaluator holds under a key."""
    if key not in output:
        remedy = "take the steps of measures_instances.yaml, or leave the measure out"
        raise InputError(f"there is no '{key}' to measure", case=str(output["id"]), remedy=remedy)
    return torch.as_tensor(output[key])[channels].detach().cpu().numpy()


def _spacing(label: Any, dims: int) -> np.ndarray:
    """Return the size of a voxel along each axis; 1 where the label has no meta data."""
    affine = getattr(label, "affine", torch.eye(dims + 1)).cpu().numpy()
    return np.linalg.norm(affine[:-1, :dims], axis=0)  # all rows: the plane of a 2D image may lie freely in space


def _mean(values: Any) -> float:
    values = np.asarray(values, dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _of_all_ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of all ranks by the name of the case, the same in every rank; a case of two ranks counts once."""
    if ranks.size() > 1:
        found = ranks.gather(rows)
        rows = list({row["case"]: row for part in reversed(found) for row in part}.values())
    return sorted(rows, key=lambda row: row["case"])
