"""Look at every file of a data list before training, and report all that is wrong at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.datalists.case_findings import look_at_case
from pipeline.datalists.check_cache import CheckCache, content_key
from pipeline.datalists.datalist import SPLITS, Case, DataList, unlabelled
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.datalists.list_findings import (
    Findings,
    Looked,
    check_foreground,
    check_groups,
    check_spacing,
    check_units,
    compare_contents,
)
from pipeline.errors import InputError, raise_all

BUNDLES = {2: "train with bundles/unet", 3: "train with bundles/unet3d"}  # each is made for its dimension
MOST_THREADS = 4  # each holds one case
MOST_WARNINGS = 10  # in the log

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a check saw.

    Args:
        name: of the list.
        dataset_dir: the folder that its paths are relative to.
        splits: the split of each case by its id, in the list's order.
        labelled: number of cases with a label.
        with_foreground: number of labels that hold more than background.
        fingerprints: the cases in numbers, those without a problem in their images.
        problems: what would spoil a training or an evaluation.
        warnings: what is odd but may be meant.
        unchanged: number of cases that an earlier check has seen just so.
    """

    name: str
    dataset_dir: str
    splits: Mapping[str, str]
    labelled: int
    with_foreground: int
    fingerprints: tuple[Fingerprint, ...]
    problems: tuple[InputError, ...]
    warnings: tuple[InputError, ...]
    unchanged: int

    @property
    def cases(self) -> int:
        """Number of cases that were looked at."""
        return len(self.splits)

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        found = {kind: [_words(error) for error in getattr(self, kind)] for kind in ("problems", "warnings")}
        numbers = [fingerprint.document for fingerprint in self.fingerprints]
        counts = {"cases": self.cases, "labelled": self.labelled, "with_foreground": self.with_foreground}
        return {"name": self.name, "dataset_dir": self.dataset_dir, **counts, **found, "fingerprints": numbers}


def check_cases(
    data_list: DataList,
    dataset_dir: str | PathLike[str],
    split: str = "all",
    fold: int = 0,
    progress: bool = True,
    spacing: Sequence[float | None] | None = None,
    axcodes: str = "RAS",
) -> Report:
    """Examine every case of a split, raise one InputError with all problems, and log the warnings.

    The arguments are those of `examine_cases`.
    """
    report = examine_cases(data_list, dataset_dir, split, fold, progress, spacing, axcodes)
    raise_all(report.problems, f"data list '{report.name}' in '{report.dataset_dir}'")
    if report.unchanged == report.cases:
        logger.info("data list '%s': all %d cases are as they were when last checked", report.name, report.cases)
    for warning in report.warnings[:MOST_WARNINGS]:
        logger.warning("%s", warning)
    if len(report.warnings) > MOST_WARNINGS:
        more = len(report.warnings) - MOST_WARNINGS
        logger.warning("%d more warnings of data list '%s': python -m pipeline check", more, report.name)
    return report


def examine_cases(
    data_list: DataList,
    dataset_dir: str | PathLike[str],
    split: str = "all",
    fold: int = 0,
    progress: bool = True,
    spacing: Sequence[float | None] | None = None,
    axcodes: str = "RAS",
    use_cache: bool = True,
) -> Report:
    """Look at every case of a split, and report all that would spoil a training or an evaluation.

    Reported first: the list's own `faults`. Checked: files are there and whole, images and labels lie on one grid,
    channels and label values are those of the list, no outlier spoils the normalisation, training and validation have
    labels and foreground, no image and no group is in two folds or splits, and all spacings are of one unit. A case
    whose files are byte for byte those of an earlier check is not read again.

    Args:
        data_list: the list.
        dataset_dir: the folder that its paths are relative to.
        split: "training", "validation", "test" or "all".
        fold: which fold validates.
        progress: show a bar if it takes more than 2 seconds.
        spacing: mm per axis of the grid that volumes are resampled to; without it, that is not checked.
        axcodes: where the axes of that grid point.
        use_cache: trust earlier checks, and remember this one.
    """
    chosen, problems = _choose(data_list, split, fold)
    cases = [case for case in data_list.cases if case.id in chosen]
    root, cache = Path(dataset_dir), CheckCache(data_list.name, dataset_dir) if use_cache else None

    def look(case: Case) -> Looked:
        key = content_key(case, data_list, root) if cache else None
        found = cache.get(case, chosen[case.id], key) if cache else None
        if found is not None:
            return Looked(case, chosen[case.id], root / case.images[0], found, unchanged=True)
        found = look_at_case(case, chosen[case.id], data_list, root)
        if cache:
            cache.put(case, key, found)
        return Looked(case, chosen[case.id], root / case.images[0], found)

    try:
        looked = _side_by_side(look, cases, f"checking '{data_list.name}'", progress)
    finally:
        if cache:
            cache.save()
    together = _look_across(looked, data_list, root)
    problems = [*data_list.faults, *problems]
    problems += [problem for one in looked for problem in _problems_of(one)] + together.problems
    if spacing is not None:
        problems += check_spacing(looked, spacing, axcodes)
    odd = [one.problem(*words) for one in looked for words in _oddities_of(one, root)]
    return Report(
        name=data_list.name,
        dataset_dir=str(dataset_dir),
        splits={case.id: chosen[case.id] for case in cases},
        labelled=sum(case.label is not None for case in cases),
        with_foreground=sum(bool(one.found.foreground) for one in looked),
        fingerprints=tuple(one.found.fingerprint for one in looked if one.found.fingerprint),
        problems=tuple(problems),
        warnings=(*odd, *together.warnings),
        unchanged=sum(one.unchanged for one in looked),
    )


def check_fits(
    data_list: DataList,
    class_names: Sequence[str],
    in_channels: int,
    spatial_dims: int,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Raise one InputError with all `contradictions` of a config and this data list."""
    problems = contradictions(data_list, class_names, in_channels, spatial_dims, regions)
    raise_all(problems, "The config does not fit the data")


def contradictions(
    data_list: DataList,
    class_names: Sequence[str],
    in_channels: int,
    spatial_dims: int,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> list[InputError]:
    """Return a problem for each setting of a config that this data list contradicts.

    Args:
        data_list: the list.
        class_names: the network's classes, background first.
        in_channels: the network's input channels.
        spatial_dims: 2 or 3.
        regions: labels by the region's name, for a network with a channel for each region.
    """
    settings = {
        "class_names": (list(class_names), list(data_list.classes)),
        "in_channels": (in_channels, len(data_list.channels)),
        "spatial_dims": (spatial_dims, data_list.spatial_dims),
    }
    problems = [
        InputError(
            f"{key} is {_shown(ours)}, but the data list '{data_list.name}' has {_shown(theirs)}",
            remedy=BUNDLES[data_list.spatial_dims] if key == "spatial_dims" else f'--{key} "{theirs}"',
        )
        for key, (ours, theirs) in settings.items()
        if ours != theirs
    ]
    top = len(data_list.classes) - 1
    for name, labels in (regions or {}).items():
        if wrong := [label for label in labels if not 1 <= label <= top]:
            known = ", ".join(f"{value} {label}" for value, label in enumerate(data_list.classes) if value)
            reason = f"region '{name}' has label {_shown(wrong)}, which no label map of '{data_list.name}' may hold"
            problems.append(InputError(reason, file="regions", remedy=f"make regions of the classes {known}"))
    return problems


def _choose(data_list: DataList, split: str, fold: int) -> tuple[dict[str, str], list[InputError]]:
    """The split of each case that is to be looked at, and what is wrong with the choice."""
    chosen: dict[str, str] = {}
    problems: list[InputError] = []
    for name in SPLITS if split == "all" else (split,):
        try:
            chosen |= {case.id: name for case in data_list.select(name, fold)}
        except InputError as error:
            if str(error) not in map(str, problems):  # training and validation lack the same fold
                problems.append(error)
    if not chosen and not problems:
        problems.append(InputError(f"data list '{data_list.name}' has no {split} case", remedy="choose another split"))
    return chosen, problems


def _side_by_side(look: Callable[[Case], Looked], cases: Sequence[Case], title: str, progress: bool) -> list[Looked]:
    """Look at the cases in a few threads, since unpacking and digests leave Python's lock; the order is theirs."""
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            return list(tqdm(pool.map(look, cases), title, len(cases), delay=2, disable=not progress))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _look_across(looked: Sequence[Looked], data_list: DataList, root: Path) -> Findings:
    found = [compare_contents(looked, root), check_foreground(looked), check_units(looked)]
    groups = [] if data_list.faults else check_groups(data_list.cases)  # who reads a list's faults looks at groups
    problems = groups + [problem for one in found for problem in one.problems]
    return Findings(problems, [warning for one in found for warning in one.warnings])


def _problems_of(look: Looked) -> list[InputError]:
    bare = look.case.label is None and look.split != "test"
    return [*look.found.problems, *([unlabelled(look.case, look.split)] if bare else [])]


def _oddities_of(look: Looked, root: Path) -> list[tuple[str, str, Path]]:
    return [(odd.reason, odd.remedy, root / odd.file) for odd in look.found.oddities]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _words(error: InputError) -> dict[str, str | None]:
    return {"case": error.case, "file": error.file, "reason": error.reason, "remedy": error.remedy}
