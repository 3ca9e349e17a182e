"""Which settings tell runs apart, and which only say where a run lives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.comparison.store import TrackedRun

PLACES = {"run_name", "resume", "output_dir", "bundle_root", "checkpoint", "mlflow/uri", "mlflow/experiment"}
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

    Of a path the last name counts: `/scratch/data/cells` and `data/cells` are one setting.
    """
    resumed = {key.removeprefix("resumed."): tag for key, tag in run.tags.items() if key.startswith("resumed.")}
    found = {key: value for key, value in {**run.params, **resumed}.items() if value != "None" and key not in PLACES}
    return {key: PurePosixPath(value).name if _is_path(key, value) else value for key, value in found.items()}


def columns(settings: Sequence[Mapping[str, str]]) -> list[Column]:
    """Return what differs between runs, settings that divide the runs alike in one column, the plainest keys first."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in sorted({key for of_run in settings for key in of_run}, key=_plainness):
        values = [of_run.get(key, ABSENT) for of_run in settings]
        if len(set(values)) > 1:
            groups[tuple(values.index(value) for value in values)].append(key)
    return [
        Column(first, tuple(others), tuple(of_run.get(first, ABSENT) for of_run in settings))
        for first, *others in groups.values()
    ]


def same_but(settings: Mapping[str, str], *keys: str) -> frozenset[tuple[str, str]]:
    """Return what runs have in common that differ by some keys only."""
    return frozenset((key, value) for key, value in settings.items() if key not in keys)


def _is_path(key: str, value: str) -> bool:
    return "/" in value and value[0] not in "$@%[" and key.rsplit("/", 1)[-1].endswith(PATH_WORDS)


def _plainness(key: str) -> tuple[int, int, str]:
    return key.count("/"), len(key), key
