"""Whether the bundle knows what a sweep would set, asked before the first trial."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser, ConfigWorkflow

from pipeline.errors import InputError, did_you_mean, find_input_error, raise_all
from pipeline.handlers.case_scores import CaseScores
from pipeline.sweeps import space
from pipeline.sweeps.sweep_file import Sweep

SUFFIXES = (".yaml", ".yml", ".json")
SEPARATOR = re.compile("::|#")


class Training(ConfigWorkflow):
    """A training of the bundle, whose parts can be had before it runs."""

    lost: list[InputError]  # settings that have no place in the config

    def parsed(self, key: str) -> Any:
        """Return a part, made in the sight of this workflow, in which the bundle looks for its folder."""
        return self.parser.get_parsed_content(key)

    def problems(self) -> list[InputError]:
        """Return what the config's own check says, without running any more of it."""
        self.parser.parse(reset=True)
        try:
            for number, line in enumerate(self.parser.get("initialize", [])):
                if "bundle.check(" in str(line):
                    self.parsed(f"initialize#{number}")
        except RuntimeError as error:
            problem = find_input_error(error)
            if problem is None:
                raise
            return [*self.lost, problem]
        return self.lost


def training(sweep: Sweep, point: Mapping[str, Any], **more: Any) -> Training:
    """Return the training of a point; settings that have no place in its config are left out, and said in `lost`."""
    given = {**sweep.overrides, **space.settings(sweep.space, point), **more}
    files = [*sweep.config_file, *overlay_files(sweep, point)]
    config = ConfigParser.load_config_files(files)
    lost = {key: problem for key in given if (problem := _lost(config, key)) is not None}
    known = {key: value for key, value in given.items() if key not in lost}
    _quiet()
    run_id = "training" if "training" in config else "run"
    found = Training(files, workflow_type="training", run_id=run_id, logging_file=False, **known)
    found.lost = list(lost.values())
    return found


def _quiet() -> None:
    """Of many trainings the lines of the sweep are enough: no word for each on its logging, and errors said once."""
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    logging.getLogger("ignite").setLevel(logging.WARNING)
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)


def check_config(sweep: Sweep, file: str | Path) -> Training:
    """Return the training of the first point; all that the bundle would refuse is one error.

    Every choice and both ends of every range are looked at, with the first overlays; and all overlays.

    Args:
        sweep: what would be run.
        file: the sweep file, for the errors.
    """
    _raise(_missing_overlays(sweep), file)
    probes = [training(sweep, point) for point in _points_to_look_at(sweep)]
    _raise([problem for probe in probes for problem in probe.problems()], file)
    _raise(_misfits(sweep, probes[0]), file)
    return probes[0]


def _raise(problems: Iterable[InputError], file: str | Path) -> None:
    """Raise all problems as those of a file; what several probes say once."""
    found = {str(problem): InputError(problem.reason, file=file, remedy=problem.remedy) for problem in problems}
    raise_all(list(found.values()), "Sweep file")


def overlay_files(sweep: Sweep, point: Mapping[str, Any]) -> list[str]:
    """Return the paths of a point's overlays, which stand beside the bundle's config."""
    return [str(_find_overlay(sweep, name)) for name in space.overlays(sweep.space, point)]


def _find_overlay(sweep: Sweep, name: str) -> Path | None:
    folder = Path(sweep.config_file[0]).parent
    places = [folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)]
    return next((place for place in places if place.suffix in SUFFIXES and place.is_file()), None)


def _missing_overlays(sweep: Sweep) -> Iterator[InputError]:
    folder = Path(sweep.config_file[0]).parent
    known = sorted(file.stem for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    named = [name for axis in sweep.space if axis.is_overlay for names in axis.choices or () for name in names]
    for name in dict.fromkeys(named):
        if _find_overlay(sweep, name) is None:
            yield InputError(f"there is no overlay '{name}' in {folder}", remedy=did_you_mean(name, known))


def _points_to_look_at(sweep: Sweep) -> list[dict[str, Any]]:
    first = {axis.key: axis.ends()[0] for axis in sweep.space}
    others = [{**first, axis.key: end} for axis in sweep.space for end in axis.ends()[1:]]
    return [first, *others]


def _lost(config: Any, key: str) -> InputError | None:
    """Return why a setting has no place in a config: of "optimiser#lr", that there is no "optimiser"."""
    node, *parts = config, *SEPARATOR.split(key)
    for part in parts[:-1]:
        keys = [
            str(key) for key in (range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else [])
        ]
        if part not in keys:
            return InputError(f"unknown setting '{key}': there is no '{part}'", remedy=did_you_mean(part, keys))
        node = node[int(part)] if isinstance(node, list) else node[part]
    if isinstance(node, dict) or (isinstance(node, list) and parts[-1].isdigit() and int(parts[-1]) < len(node)):
        return None
    return InputError(f"unknown setting '{key}': nothing stands below '{'#'.join(parts[:-1])}'", remedy="leave it out")


def _misfits(sweep: Sweep, first: Training) -> Iterator[InputError]:
    """Yield folds that the data list lacks, and a metric that no validation would have."""
    try:
        cases = first.parsed("cases")
    except RuntimeError as error:
        if (problem := find_input_error(error)) is None:
            raise
        yield problem
        return
    for fold in sweep.folds:
        if fold not in cases.folds:
            yield InputError(
                f"the data list '{cases.name}' has no fold {fold}", remedy=f"choose of the folds {cases.folds}"
            )
    scores = first.parsed("scores")
    known = [f"val/{name}" for name in score_names(scores, int(first.parsed("spatial_dims")))]
    if sweep.metric not in known:
        yield InputError(f"there is no score '{sweep.metric}'", remedy=did_you_mean(sweep.metric, known))


def score_names(scores: CaseScores, spatial_dims: int) -> list[str]:
    """Return the scores that a validation would have, as an empty case has them."""
    empty = np.zeros((1, *[8] * spatial_dims), np.int64)
    keys: Sequence[str] = ("label", "pred", "label_instances", "pred_instances")
    scores.reset()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of means over nothing
        scores.update({"id": "", **{key: empty for key in keys}, "probabilities": empty.astype(np.float32)})
    names = [*scores.rows[0], *(scores.details[0] if scores.details else [])]
    scores.reset()
    return list(dict.fromkeys(name for name in names if name != "case"))
