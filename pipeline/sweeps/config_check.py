"""Whether the bundle knows what a sweep would set, asked before the first trial."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser, ConfigWorkflow

from pipeline import settings
from pipeline.errors import InputError, did_you_mean, find_input_error, raise_all
from pipeline.handlers.case_scores import CaseScores
from pipeline.mlflow_store import first_line
from pipeline.sweeps import space
from pipeline.sweeps.failure import reason_of
from pipeline.sweeps.sweep_file import Sweep

logger = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
SEPARATOR = re.compile("::|#")
PARTS = ("train", "cases", "data_list", "device", "scores", "run_folder", "mlflow")  # of a training's config
CHECKS = re.compile(r"\bcheck(_fits|_sizes)?\(")  # in lines of `initialize` that look at the config, not at files


class Training(ConfigWorkflow):
    """A training of the bundle, whose parts can be had before it runs."""

    point: Mapping[str, Any]
    lost: list[InputError]  # settings that have no place in the config

    def parsed(self, key: str) -> Any:
        """Return a part, made in the sight of this workflow, in which the bundle looks for its folder."""
        return self.parser.get_parsed_content(key)

    def check(self) -> None:
        """Raise what the config's own checks say, without running any more of it."""
        self.parser.parse(reset=True)
        for number, line in enumerate(self.parser.get("initialize", [])):
            if CHECKS.search(str(line)):
                self.parsed(f"initialize#{number}")


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
    found.point, found.lost = point, list(lost.values())
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
    _raise(_misused_files(sweep), file)
    probes = [training(sweep, point) for point in _points_to_look_at(sweep)]
    _raise([problem for probe in probes for problem in _problems(sweep, probe)], file)
    _warn_of_idle_settings(sweep, probes)
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


def _misused_files(sweep: Sweep) -> Iterator[InputError]:
    """Yield files that are no configs, overlays that are more than that, and a config that is no training's."""
    overlays = {file for point in _points_to_look_at(sweep) for file in overlay_files(sweep, point)}
    config: dict[str, Any] = {}
    for file in dict.fromkeys([*sweep.config_file, *sorted(overlays)]):
        try:
            content = settings.read_config(file)
        except InputError as error:
            yield InputError(f"'{file}' {error.reason}", remedy=error.remedy)
            continue
        except OSError as error:
            yield InputError(f"'{file}' is no config: {first_line(error)}", remedy="name a JSON or YAML file")
            continue
        if file in overlays and "run" in content:
            yield InputError(f"'{file}' is a config and no overlay", remedy="name a file that changes some settings")
        config |= content
    lacking = [part for part in PARTS if part not in config]
    if lacking:
        reason = f"'config_file' describes no training: there is no '{lacking[0]}'"
        yield InputError(reason, remedy="begin with the bundle's train.json")


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


def _problems(sweep: Sweep, probe: Training) -> list[InputError]:
    """Return what makes a point of the space impossible; nothing of it is trained, and no image is read."""
    try:
        probe.check()
        return [*probe.lost, *_misfits(sweep, probe)]
    except Exception as error:
        unknown = InputError(f"{_shown(probe.point)} cannot be: {reason_of(error)}", remedy="give other values")
        return [*probe.lost, find_input_error(error) or unknown]


def _misfits(sweep: Sweep, probe: Training) -> list[InputError]:
    """Return a metric that no validation would have; raise where the data list has no cases for a fold."""
    cases, folder = probe.parsed("cases"), probe.parsed("dataset_dir")
    for fold in sweep.folds or (probe.parsed("fold"),):
        for split in ("training", "validation"):
            cases.records(folder, split, fold)
    known = [f"val/{name}" for name in score_names(probe.parsed("scores"), int(probe.parsed("spatial_dims")))]
    if sweep.metric in known:
        return []
    return [InputError(f"there is no score '{sweep.metric}'", remedy=did_you_mean(sweep.metric, known))]


def _warn_of_idle_settings(sweep: Sweep, probes: Iterable[Training]) -> None:
    """Say which settings would change nothing, for what read them has a value of its own: `optimizer#lr`."""
    keys = [axis.key for axis in sweep.space] + list(sweep.overrides)
    idle = set(keys) & _read(ConfigParser.load_config_files(list(sweep.config_file)))
    for probe in probes:
        for key in sorted(idle - _read(settings.of(probe.parser))):
            beside = _shown({name: value for name, value in probe.point.items() if name != key})
            logger.warning("'%s' changes nothing beside %s, where nothing reads it", key, beside or "the overrides")
            idle.remove(key)


def _read(config: Mapping[str, Any]) -> set[str]:
    """Return the keys that something in a config refers to, its checks left out."""
    return set(settings.REFERENCE.findall(json.dumps({**config, "initialize": []}, default=str)))


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


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
