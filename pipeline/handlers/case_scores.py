"""Scores of every case of a validation or test split, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from ignite.metrics import Metric
from monai.engines.workflow import Workflow

from pipeline.metrics.overlap import dice, iou


class CaseScores(Metric):
    """The key metric of an evaluator: mean over cases of the mean Dice over the case's foreground classes.

    A class that the truth of a case lacks is n/a there (nan): left out of means and counted, never 0 and never 1. The
    rows of all cases stand in `engine.state.metric_details["cases"]`, the other means in `engine.state.metrics`.

    Args:
        class_names: names by index, background first.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        super().__init__()

    def reset(self) -> None:
        """Forget the cases."""
        self.rows: list[dict[str, Any]] = []

    def update(self, output: tuple[str, Any, Any]) -> None:
        """Score one case, given as (id, truth, prediction) of class indices."""
        case, truth, prediction = output
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        row: dict[str, Any] = {"case": case}
        for name, measure in (("dice", dice), ("iou", iou)):
            scores = measure(truth, prediction, len(self.class_names))[1:]
            row[f"mean_{name}"] = _mean(scores)
            row |= {f"{name}/{label}": float(score) for label, score in zip(self.class_names[1:], scores, strict=True)}
        self.rows.append(row)

    def iteration_completed(self, engine: Workflow) -> None:  # type: ignore[override]
        """Score the batch that the engine has just predicted."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update((batch["id"], output["label"].cpu(), output["pred"].cpu()))

    def compute(self) -> float:
        """Return the key metric of what was seen so far."""
        return _mean([row["mean_dice"] for row in self.rows])

    def completed(self, engine: Workflow, name: str) -> None:  # type: ignore[override]
        """Give the engine the means, and the rows of all ranks."""
        self.rows = sorted(_of_all_ranks(self.rows), key=lambda row: row["case"])
        engine.state.metric_details["cases"] = self.rows
        engine.state.metrics[name] = self.compute()
        engine.state.metrics.update(mean_scores(self.rows))


def mean_scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each score over the cases that have it."""
    names = [key for key in rows[0] if key != "case"] if rows else []
    return {name: _mean([row[name] for row in rows]) for name in names}


def higher_is_better(current: float, best: float) -> bool:
    """Compare key metrics: a number beats n/a, and n/a beats nothing."""
    return current > best or (np.isnan(best) and not np.isnan(current))


def _mean(values: Any) -> float:
    values = np.asarray(values, dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _of_all_ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
