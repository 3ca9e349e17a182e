"""Tables and pictures of an evaluation."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.engines.workflow import Workflow

from pipeline import figures, ranks
from pipeline.handlers.case_scores import NO_SCORES, CaseScores
from pipeline.handlers.mlflow_run import origin, params, records_of
from pipeline.report import ExtremeVolumes, origin_facts, write_report
from pipeline.run_folder import read_facts
from pipeline.slices import KeptSlices, write_slices
from pipeline.stop_signals import stopped_by_signals
from pipeline.tracking import Tracking
from pipeline.volumes.atomic import atomic_write_text
from pipeline.volumes.contents import case_digest

logger = logging.getLogger(__name__)

EXTREMES = (("worst", 1), ("best", -1))  # and how their scores are ordered


class EvaluationReport:
    """Write what an evaluation found: `cases.csv`, `scores.json`, pictures of the worst and the best cases.

    `slices.npz` keeps small slices of the same cases in every run, by which runs are compared by eye. The column `data`
    of `cases.csv` is a digest of a case's files, if they were checked: scores of other data are told apart by it.

    Args:
        scores: the evaluator's key metric, which has the rows of the cases.
        split: which cases were evaluated; names the metrics in MLflow, `test/mean_dice`.
        folder: where to write when the evaluation ends; without one, only when `write` is called.
        tracking: an MLflow run of its own for this evaluation, beneath the training's run where that is known.
        bundle_root: the bundle under evaluation.
        config: the merged config; its leaves become the params of the MLflow run.
        data_list: the list of cases; its digest becomes a tag.
        tags: more tags, such as the bundle's name and version.
        pictures: how many of the worst and of the best cases to draw.
    """

    def __init__(
        self,
        scores: CaseScores,
        split: str,
        folder: str | Path | None = None,
        tracking: Tracking | None = None,
        bundle_root: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        data_list: str | Path | None = None,
        tags: Mapping[str, Any] | None = None,
        pictures: int = 3,
    ) -> None:
        self.scores, self.split, self.count = scores, split, pictures
        self.folder, self.tracking, self.bundle_root = folder, tracking, bundle_root
        self.config, self.data_list, self.tags = dict(config or {}), data_list, dict(tags or {})
        self.extremes: dict[str, list[dict[str, Any]]] = {}
        self.kept = KeptSlices()
        self.volumes = ExtremeVolumes()

    def attach(self, engine: Workflow) -> None:
        """Listen to an evaluator whose key metric is CaseScores."""
        self.engine = engine
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        if self.folder is not None:
            engine.add_event_handler(Events.COMPLETED, lambda: self._write_and_track(Path(self.folder)))  # type: ignore[arg-type]

    def gather(self) -> None:
        """Let the first rank have the pictures of all, before it writes. All ranks call this, or none."""
        if ranks.size() == 1:
            return
        parts = ranks.gather_first((self.kept.slices, self.extremes, self.volumes))
        for slices, _, volumes in parts[1:]:
            self.kept.merge(slices)
            self.volumes.merge(volumes)
        for name, sign in EXTREMES if parts else ():
            found = {picture["case"]: picture for _, extremes, _ in parts for picture in extremes[name]}
            self.extremes[name] = _ranked([*found.values()], sign)[: self.count]

    def write(self, folder: Path, **told: Any) -> list[Path]:
        """Write tables and pictures of the evaluation that has just ended; return the files."""
        scores = {"split": self.split, **self._summary()}
        atomic_write_text(folder / "cases.csv", table(self._rows_with_data()))
        atomic_write_text(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
        write_slices(folder / "slices.npz", self.kept.slices)
        files = [folder / name for name in ("cases.csv", "scores.json", "slices.npz")]
        for name, pictures in self.extremes.items():
            if pictures:
                figures.save(
                    figures.cases(pictures, f"{self.split}: the {name} cases, by mean Dice"), folder / f"{name}.png"
                )
                files.append(folder / f"{name}.png")
        options = {"title": self.split, "classes": self.scores.class_names, "config": self.config, **told}
        page = write_report(
            folder,
            split=self.split,
            cases=self.engine.state.metric_details["cases"],
            scores=scores,
            pictures=self.extremes,
            volumes=self.volumes.volumes,
            **options,
        )
        return [*files, page]

    def _rows_with_data(self) -> list[dict[str, Any]]:
        """The rows of the cases, each with the digest of its files, if all of them are known."""
        rows = self.engine.state.metric_details["cases"]
        known = {record["id"]: case_digest(record) for record in records_of(self.engine)}
        digests = [known.get(row["case"]) for row in rows]
        return rows if None in digests else [{**row, "data": d} for row, d in zip(rows, digests, strict=True)]

    def _summary(self) -> dict[str, Any]:
        details = self.engine.state.metric_details
        return summary(details["cases"], details["stack"])

    def _start(self) -> None:
        self.extremes = {"worst": [], "best": []}
        self.kept = KeptSlices()
        self.volumes.clear()
        self.begun = time.monotonic()

    def _look(self, engine: Workflow) -> None:
        """Keep the pictures of the extreme cases only, so that memory does not grow with the number of cases."""
        rows = self.scores.rows[-len(engine.state.batch) :]
        for row, output in zip(rows, engine.state.output, strict=True):
            image, truth, prediction = (np.asarray(output[key].cpu()) for key in ("image", "label", "pred"))
            self.kept.add(row["case"], image, truth[0], prediction[0], row["mean_dice"])
            if math.isnan(row["mean_dice"]):
                continue
            self.volumes.look(row["case"], row["mean_dice"], image, truth[0], prediction[0], output["label"])
            image, truth, prediction = figures.slice_of(image, truth[0], prediction[0])
            picture = {
                "case": row["case"],
                "score": row["mean_dice"],
                "image": image,
                "truth": truth,
                "prediction": prediction,
            }
            for name, sign in EXTREMES:
                self.extremes[name] = _ranked([*self.extremes[name], picture], sign)[: self.count]

    def _write_and_track(self, folder: Path) -> None:
        self.gather()
        if self.engine.state.rank != 0:
            return
        root = Path(self.bundle_root or ".").resolve()
        facts = read_facts(root)
        tags = {**self.tags, "bundle_root": root, "evaluation": self.split}
        tags = origin(self.engine.state.device, self.data_list, tags, records_of(self.engine))
        title, seconds = f"{self.split} of {root.name}", time.monotonic() - self.begun
        files = self.write(folder, title=title, changes=facts.get("changes"), facts=origin_facts(tags, seconds))
        logger.info("%s split, in %s\n%s", self.split, folder, score_table(self._summary()))
        if self.tracking is None:
            return
        if facts.get("mlflow_run_id") and facts.get("mlflow_uri") == self.tracking.uri:
            tags["mlflow.parentRunId"] = facts["mlflow_run_id"]
        with stopped_by_signals():
            if not self._track(self.tracking, title, tags, folder, files):
                logger.warning("what MLflow lacks stands in %s", folder)

    def _track(self, to: Tracking, title: str, tags: Mapping[str, str], folder: Path, files: Sequence[Path]) -> bool:
        """Give MLflow a run that is closed whatever comes; return whether nothing is lost."""
        try:
            to.start(title, tags, params=params(self.config), folder=folder)
            to.metrics({f"{self.split}/{name}": value for name, value in self.engine.state.metrics.items()}, 0)
            for file in files:
                to.artifact(file, f"evaluation/{self.split}")
            return to.end()
        except Exception:
            to.end("FAILED")
            raise
        finally:
            to.end("KILLED")  # where the user or a signal came before the end


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of cases as CSV, an empty field for n/a."""
    text = StringIO()
    columns = dict.fromkeys(key for row in rows for key in row) or ["case"]
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if _is_na(value) else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def summary(rows: Sequence[dict[str, Any]], stack: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return for each score its mean, spread and extremes, over how many cases, and in how many it is n/a.

    The scores of `stack` are of all cases together, one number each; None (n/a) where that is nan.
    """
    scores = {}
    for name in [key for key in rows[0] if key not in NO_SCORES] if rows else []:
        values = np.array([row[name] for row in rows if not _is_na(row[name])])
        found = {"cases": len(values), "not_applicable": len(rows) - len(values)}
        if len(values):
            found |= {"mean": values.mean(), "std": values.std(), "lowest": values.min(), "highest": values.max()}
        scores[name] = {
            key: round(float(value), 6) if isinstance(value, float) else value for key, value in found.items()
        }
    of_stack = {name: None if _is_na(value) else round(value, 6) for name, value in (stack or {}).items()}
    return {"cases": len(rows), **({"stack": of_stack} if of_stack else {}), "scores": scores}


def score_table(found: dict[str, Any]) -> str:
    """Return the scores of a `summary` as a Markdown table, which is read as well in a terminal."""
    lines = [
        f"| score over {found['cases']} cases | mean | std | lowest | highest | n/a |",
        "|---|---|---|---|---|---|",
    ]
    for name, score in found["scores"].items():
        numbers = " | ".join(
            f"{score[key]:.4f}" if key in score else "n/a" for key in ("mean", "std", "lowest", "highest")
        )
        lines.append(f"| {name} | {numbers} | {score['not_applicable']} |")
    if found.get("stack"):
        lines += ["", f"| score of {found['cases']} cases as one stack | value |", "|---|---|"]
        values = {name: "n/a" if value is None else f"{value:.4f}" for name, value in found["stack"].items()}
        lines += [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(lines)


def _ranked(pictures: list[dict[str, Any]], sign: int) -> list[dict[str, Any]]:
    return sorted(pictures, key=lambda picture: (sign * picture["score"], picture["case"]))


def _is_na(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
