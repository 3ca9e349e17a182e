"""The page that a training or an evaluation ends with: what ran, what it came to, and what that looks like."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray

from pipeline.bundle import flatten
from pipeline.comparison.statistics import Estimate, mean_interval
from pipeline.pages import charts
from pipeline.pages import page as pages
from pipeline.pages.charts import KEY_METRIC, numbers
from pipeline.pages.gallery import gallery
from pipeline.pages.page import Cell, Html
from pipeline.pages.viewer import MOST_VOXELS, ViewerVolume, viewer
from pipeline.volumes.atomic import atomic_write_text
from pipeline.volumes.reading import has_geometry

Array = NDArray[Any]
Row = Mapping[str, Any]

OVERALL = "all classes"
CLOCKS = ("time", "time in epochs")  # the latter without what stands before and after them
NO_SETTINGS = ("run_name", "resume")  # they only say which run to continue


def write_report(
    folder: Path,
    *,
    title: str,
    split: str,
    cases: Sequence[Row],
    scores: Mapping[str, Any],
    classes: Sequence[str] = (),
    history: Sequence[Row] | None = None,
    changes: Sequence[Row] | None = None,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    volumes: Sequence[ViewerVolume] = (),
) -> Path:
    """Write `report.html`, which needs no other file and no network, and return it.

    Args:
        folder: where to.
        title: the run's name.
        split: which cases were evaluated.
        cases: their rows, `case` and scores, as in `cases.csv`.
        scores: what `evaluation_report.summary` says of them; of interest here is `stack`, scores of all as one.
        classes: names by class index, the background first.
        history: a row per epoch, where it was a training.
        changes: the settings that differ from the bundle's own, as `changed_settings` gives them; None if not known.
        config: the merged config, to look up in.
        facts: where the result comes from, such as `origin_facts`.
        pictures: the "worst" and the "best" cases: `case`, `score`, `image` (H, W) or (H, W, 3), `truth`, `prediction`.
        volumes: cases that the reader goes through plane by plane, in place of pictures.
    """
    sections = [_result(cases, scores.get("stack") or {}, split, history, facts or {})]
    if history:
        sections.append(
            pages.section("Learning curves", pages.beside(*map(pages.figure, charts.curves(history)), least=400))
        )
    if volumes:
        sections.append(pages.section("Worst and best cases", viewer(volumes, classes)))
    elif pictures and any(pictures.values()):
        sections.append(pages.section("Worst and best cases", gallery(pictures, classes)))
    bars = [name for name in (cases[0] if cases else ()) if name == KEY_METRIC or name.startswith("dice/")]
    sections.append(pages.section("All cases", pages.table(cases, name="cases", bars=bars)))
    if facts or changes is not None or config:
        sections.append(_what_ran(facts or {}, changes, config))
    subtitle = f"{split} split, {len(cases)} case{'s' * (len(cases) != 1)}"
    atomic_write_text(folder / "report.html", pages.page(title, sections, subtitle))
    return folder / "report.html"


def changed_settings(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each leaf of the config that the bundle's own lacks or has another value for, and vice versa."""
    ours, theirs = flatten(_as_it_runs(config)), flatten(_as_it_runs(defaults))
    rows = []
    for name in {**theirs, **ours}:
        if name not in ours or name not in theirs or ours[name] != theirs[name]:
            own, other = (str(leaves.get(name, "–")) for leaves in (ours, theirs))
            rows.append({"setting": name, "this run": own, "the bundle's own": other})
    return rows


def _as_it_runs(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as MONAI runs it: `@train#dataset` is `@train::dataset`, `%training` what stands there."""
    parser = ConfigParser(deepcopy(dict(config)))
    parser.resolve_macro_and_relative_ids()
    return {key: value for key, value in parser.get().items() if key not in (ConfigParser.meta_key, *NO_SETTINGS)}


def origin_facts(tags: Mapping[str, Any], seconds: float | None = None, clock: str = "time") -> dict[str, str]:
    """Return what a reader wants to know of a result's origin.

    Args:
        tags: of its run (`mlflow_run.origin`).
        seconds: that it took.
        clock: what these seconds are, one of `CLOCKS`.
    """
    commit, dirty = tags.get("mlflow.source.git.commit"), tags.get("git.dirty") == "true"
    code = f"unet-pipeline {tags.get('pipeline.version', '')}"
    code += f", commit {commit[:12]}{' with changes of its own' if dirty else ''}" if commit else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("monai", "torch", "numpy"))
    machine = f"{platform.node()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    found = {
        "bundle": " ".join(filter(None, (tags.get("bundle"), tags.get("bundle.version")))),
        "data list": tags.get("data_list", ""),
        "its SHA-256": tags.get("data_list.digest", ""),
        "code": code,
        "packages": f"Python {tags.get('python', platform.python_version())}, {packages}",
        "machine": machine,
        "device": _device(tags.get("device", "cpu")),
        "command": tags.get("mlflow.source.name", ""),
        "seed": tags.get("seed", ""),
        clock: "" if seconds is None else _duration(seconds),
        "pruned": f"after epoch {tags['pruned']}: the trial was not worth more" if tags.get("pruned") else "",
    }
    return {name: value for name, value in found.items() if value}


class ExtremeVolumes:
    """The volumes of the worst and of the best cases, each 24 MB at most, so that memory does not grow with the cases.

    Args:
        count: how many of the worst and of the best.
        most_voxels: of each; a larger volume is cropped and drawn coarser.
    """

    def __init__(self, count: int = 2, most_voxels: int = MOST_VOXELS) -> None:
        self.count, self.most_voxels = count, most_voxels
        self.clear()

    def clear(self) -> None:
        """Forget all, as an evaluation starts."""
        self.kept: dict[str, list[ViewerVolume]] = {"worst": [], "best": []}

    def look(self, case: str, score: float, image: Array, truth: Array, prediction: Array, label: Any = None) -> None:
        """Keep a case if it is a volume and among the extremes.

        Args:
            case: its id.
            score: the key metric; a case without one is no extreme.
            image: (X, Y, Z), or (C, X, Y, Z), of which the first channel is shown.
            truth: class indices (X, Y, Z).
            prediction: the same.
            label: what the truth was taken from, which knows where its voxels lie.
        """
        if truth.ndim != 3 or math.isnan(score):
            return
        volume = None
        for name, sign in (("worst", 1), ("best", -1)):
            kept = self.kept[name]
            if len(kept) < self.count or sign * score < sign * (kept[-1].score or 0):
                shown = image[0] if image.ndim == 4 else image
                volume = volume or ViewerVolume.of(
                    case, shown, truth, prediction, _geometry(label), score, self.most_voxels
                )
                self.kept[name] = sorted([*kept, volume], key=lambda own: sign * (own.score or 0))[: self.count]

    def merge(self, other: ExtremeVolumes) -> None:
        """Take the volumes of another process, as if their cases had been seen here."""
        for name, sign in (("worst", 1), ("best", -1)):
            found = {volume.case: volume for volume in (*other.kept[name], *self.kept[name])}
            self.kept[name] = sorted(found.values(), key=lambda own: sign * (own.score or 0))[: self.count]

    @property
    def volumes(self) -> list[ViewerVolume]:
        """Each once, the worst first."""
        found = {volume.case: volume for volume in (*self.kept["worst"], *self.kept["best"])}
        return sorted(found.values(), key=lambda volume: volume.score or 0)


def _geometry(label: Any) -> Array | None:
    """Where a label's voxels lie in the patient; None where its file does not know."""
    if not isinstance(label, MetaTensor) or not has_geometry(str(label.meta.get("filename_or_obj", ""))):
        return None
    return np.asarray(label.affine.cpu(), float)


def _result(
    cases: Sequence[Row], stack: Mapping[str, Any], split: str, history: Sequence[Row] | None, facts: Mapping[str, Any]
) -> Html:
    key = mean_interval(numbers(row.get(KEY_METRIC) for row in cases))
    bounds = f", 95% interval {key.low:.3f} to {key.high:.3f}" if math.isfinite(key.low) else ""
    tiles = {f"mean Dice{bounds}": _rounded(key.mean), f"{split} cases": str(len(cases))}
    tiles |= {"epochs": str(len(history))} if history else {}
    tiles |= {name: str(facts[name]) for name in CLOCKS if name in facts}
    of_classes, others = _score_tables(cases, stack)
    parts = [pages.glance(tiles)]
    if of_classes:
        parts.append(pages.table(of_classes, name="scores of classes"))
    if others:
        parts.append(pages.table(others, name="other scores"))
    parts.append(pages.text("In brackets: the 95% bootstrap interval of the mean over cases; n/a is left out."))
    drawn = [figure for figure in (charts.histogram(cases), charts.strips(cases)) if figure is not None]
    return pages.section("Result", *parts, pages.beside(*map(pages.figure, drawn)))


def _score_tables(cases: Sequence[Row], stack: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per class with a column per measure, and a row for each score that is not of classes."""
    names = [name for name in (cases[0] if cases else ()) if name != "case"]
    measures = {name.split("/")[0] for name in names if "/" in name}
    labels = {name.split("/", 1)[1] for name in names if "/" in name}
    of_classes: dict[str, dict[str, Any]] = {}
    others: list[dict[str, Any]] = []
    for name in names:
        found = mean_interval(numbers(row.get(name) for row in cases))
        measure, _, label = name.partition("/")
        if not label and measure.removeprefix("mean_") in measures:
            measure, label = measure.removeprefix("mean_"), OVERALL
        if label == OVERALL and len(labels) == 1:
            continue  # the mean over the one class is its own score
        if label:
            row = of_classes.setdefault(label, {"class": label, "cases": found.count})
            row[measure] = _with_interval(found)
        else:
            values = numbers(row.get(name) for row in cases)
            spread = {"lowest": min(values, default=None), "highest": max(values, default=None)}
            others.append({"score": name, "mean": _with_interval(found), **spread, "cases": found.count})
    others += [{"score": f"{name}, of all cases as one", "mean": value} for name, value in stack.items()]
    return list(of_classes.values()), others


def _with_interval(found: Estimate) -> Cell | None:
    if not found.count:
        return None
    bounds = f" [{_rounded(found.low)}, {_rounded(found.high)}]" if math.isfinite(found.low) else ""
    return Cell(found.mean, _rounded(found.mean) + bounds)


def _rounded(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _what_ran(facts: Mapping[str, Any], changes: Sequence[Row] | None, config: Mapping[str, Any] | None) -> Html:
    parts = [pages.facts(facts)]
    if changes:
        parts += [pages.subheading("Settings other than the bundle's own"), pages.table(changes, name="settings")]
    elif changes is not None:
        parts.append(pages.text("All settings are the bundle's own."))
    if config:
        rows = [{"setting": name, "value": str(value)} for name, value in flatten(config).items()]
        parts.append(pages.folded(f"All {len(rows)} settings", pages.table(rows, name="all settings")))
    return pages.section("What ran", *parts)


def _device(name: str) -> str:
    if not name.startswith("cuda") or not torch.cuda.is_available():
        return name
    return f"{name}, {torch.cuda.get_device_name(torch.device(name))}"


def _duration(seconds: float) -> str:
    """A time as a reader says it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
