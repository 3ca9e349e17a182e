"""Which settings tell runs apart, and which only say where a run lives and on what it ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.comparison.store import TrackedRun

PLACES = {"run_name", "resume", "output_dir", "bundle_root", "checkpoint", "device", "mlflow/uri", "mlflow/experiment"}
ORIGIN = ("code", "dataset_dir")  # no settings, but shown where they differ, each in a column of its own
PATH_WORDS = ("dir", "root", "list", "file", "folder", "path")
ABSENT = "–"


@dataclass(frozen=True)
class Column:
    """A setting that differs, with others that differ in step with it.

    Args:
        key: the shortest of the keys.
        others: the remaining ones, as an overlay that replaces a component changes many at once.
        values: of `key`, one for each run.
    """

    key: str
    others: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def title(self) -> str:
        """The key, and how many more go with it."""
        return f"{self.key} (+{len(self.others)})" if self.others else self.key


def settings_of(run: TrackedRun) -> dict[str, str]:
    """Return a run's params but for those that only say where it lives; after a resume those that it ran with last.

    Of a path the last name counts: `/scratch/data/cells` and `data/cells` are one setting. A data list is its digest,
    wherever it lies.
    """
    found = {key: value for key, value in _params(run).items() if value != "None" and key not in PLACES}
    found = {key: PurePosixPath(value).name if _is_path(key, value) else value for key, value in found.items()}
    return found | ({"data_list": run.digest[:8]} if run.digest else {})


def shown_settings(run: TrackedRun) -> dict[str, str]:
    """Return a run's settings, and what a reader wants to see as well where it differs: code, path of the data."""
    found = settings_of(run)
    if (commit := run.tags.get("mlflow.source.git.commit")) is not None:
        found["code"] = commit[:8] + (", changed" if run.tags.get("git.dirty") == "true" else "")
    if "dataset_dir" in found:
        found["dataset_dir"] = _params(run)["dataset_dir"]
    return found


def columns(settings: Sequence[Mapping[str, str]]) -> list[Column]:
    """Return what differs between runs, settings that divide the runs alike in one column, the plainest keys first."""
    groups: dict[object, list[str]] = defaultdict(list)
    for key in sorted({key for of_run in settings for key in of_run}, key=_plainness):
        values = [of_run.get(key, ABSENT) for of_run in settings]
        if len(set(values)) > 1:
            pattern = tuple(values.index(value) for value in values)
            groups[key if key in ORIGIN else pattern].append(key)
    return [
        Column(first, tuple(others), tuple(of_run.get(first, ABSENT) for of_run in settings))
        for first, *others in groups.values()
    ]


def same_but(settings: Mapping[str, str], *keys: str) -> frozenset[tuple[str, str]]:
    """Return what runs have in common that differ by some keys only."""
    return frozenset((key, value) for key, value in settings.items() if key not in keys)


def _params(run: TrackedRun) -> dict[str, str]:
    resumed = {key.removeprefix("resumed."): tag for key, tag in run.tags.items() if key.startswith("resumed.")}
    return {**run.params, **resumed}


def _is_path(key: str, value: str) -> bool:
    return "/" in value and value[0] not in "$@%[" and key.rsplit("/", 1)[-1].endswith(PATH_WORDS)


def _plainness(key: str) -> tuple[bool, int, int, str]:
    return key in ORIGIN, key.count("/"), len(key), key
