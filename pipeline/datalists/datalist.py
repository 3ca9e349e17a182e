"""The data list: a small JSON file that says what a data set holds and which case serves for what."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.datalists.list_document import understand
from pipeline.errors import InputError, raise_all
from pipeline.volumes.atomic import atomic_path

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Case:
    """One case: its files relative to the data set's folder, and either a `fold` or a `split`.

    Args:
        id: unique name, also of the files that are predicted for the case.
        image: one file, or one for each channel.
        label: the reference segmentation; None for a case without one.
        group: what must not be divided between splits, such as a patient or a slide.
        fold: cross-validation fold: the case validates when this fold is asked for and trains otherwise.
        split: a fixed one of `SPLITS` instead of a fold.
    """

    id: str
    image: str | tuple[str, ...]
    label: str | None = None
    group: str | None = None
    fold: int | None = None
    split: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """The image files as a tuple, also where there is one."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def place(self) -> str:
        """Where the list puts the case: "fold 0" or the split's name."""
        return f"fold {self.fold}" if self.split is None else self.split

    def split_for(self, fold: int) -> str:
        """The split that the case belongs to when `fold` validates."""
        return self.split or ("validation" if self.fold == fold else "training")


@dataclass(frozen=True)
class DataList:
    """A data set's list, as `schema.json` describes it; `load_data_list` reads one.

    `faults` is what is wrong with the file that it was read from, where the reader wanted to know that later.
    """

    name: str
    description: str
    licence: str
    source: str
    made_by: str
    spatial_dims: int
    label_kind: Literal["instances", "classes"]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    generator: Mapping[str, Any] | None = None
    faults: tuple[InputError, ...] = field(default=(), repr=False, compare=False)

    @property
    def folds(self) -> list[int]:
        """The folds that occur, in order."""
        return sorted({case.fold for case in self.cases if case.fold is not None})

    @property
    def document(self) -> dict[str, Any]:
        """The list as the JSON file holds it: keys without a value are left out."""
        beside = {key: value for key, value in vars(self).items() if key not in ("cases", "faults")}
        document = {key: _plain(value) for key, value in beside.items() if value is not None}
        cases = [{key: _plain(value) for key, value in vars(case).items() if value is not None} for case in self.cases]
        return document | {"cases": cases}

    @property
    def digest(self) -> str:
        """SHA-256 of the list's canonical JSON (sorted keys, no spaces, UTF-8), in hexadecimal digits."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def select(self, split: str, fold: int = 0) -> list[Case]:
        """The cases of a split when `fold` validates; an empty training or validation split is an error.

        Args:
            split: one of `SPLITS`.
            fold: which fold validates; without meaning for a list without folds.
        """
        title = f"data list '{self.name}'"
        if split not in SPLITS:
            raise InputError(f"'{split}' is not a split", remedy=f"choose one of {', '.join(SPLITS)}")
        if split != "test" and self.folds and fold not in self.folds:
            raise InputError(f"{title} has no fold {fold}", remedy=f"choose one of the folds {self.folds}")
        cases = [case for case in self.cases if case.split_for(fold) == split]
        if not cases and split != "test":
            folds = f"there are the folds {self.folds}" if self.folds else "there are no folds"
            raise InputError(
                f"{title} has no {split} case when fold {fold} validates; {folds}",
                remedy=f"give some cases the split '{split}', or give the cases two folds or more",
            )
        return cases

    def records(
        self, dataset_dir: str | PathLike[str], split: str, fold: int = 0, labelled: bool = False
    ) -> list[dict[str, Any]]:
        """One dictionary for each case of a split: "id", "image" (a path or one for each channel), "label", "group".

        A case without a label or a group has no such key; in training and validation a missing label is an error.

        Args:
            dataset_dir: the folder that the list's paths are relative to.
            split: one of `SPLITS`.
            fold: which fold validates.
            labelled: leave out the test cases without a label, and log which; no case with one is an error.
        """
        raise_all(self.faults, f"data list '{self.name}'")
        cases, root = self.select(split, fold), Path(dataset_dir)
        without = [case for case in cases if case.label is None]
        if split != "test":
            raise_all([unlabelled(case, split) for case in without], f"data list '{self.name}'")
        if labelled and without:
            cases = [case for case in cases if case.label is not None]
            reason = f"{len(without)} of {len(without) + len(cases)} {split} cases have no label"
            if not cases:
                raise InputError(f"{reason} in data list '{self.name}'", remedy="predict them, or give them labels")
            logger.warning("%s and are left out: %s", reason, ", ".join(case.id for case in without))
        return [_record(case, root) for case in cases]


def unlabelled(case: Case, split: str) -> InputError:
    """The error for a case that has to have a label."""
    return InputError(f"a {split} case has no label", case=case.id, remedy="give it a label or the split 'test'")


def load_data_list(path: str | PathLike[str], strict: bool = True) -> DataList:
    """Read and check a data list; all problems are reported in one InputError.

    Args:
        path: the JSON file.
        strict: False keeps the problems in `faults` where some cases are understood, so that a check can look at their
            files and report everything at once; `records` of such a list raises them.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        json.dumps(document, ensure_ascii=False).encode()
    except InputError as error:
        raise InputError(error.reason, file=path, remedy=error.remedy) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"no valid JSON at {place}: {error.msg}", file=path, remedy="mend the JSON there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", file=path, remedy="give the path of a data list") from error
    # Nested by the thousand, numbers of thousands of digits, half a letter.
    except (RecursionError, ValueError) as error:
        raise InputError(f"is no data list: {error}", file=path, remedy="make the list anew") from error
    return parse_data_list(document, path, strict)


def parse_data_list(document: Any, file: str | PathLike[str] | None = None, strict: bool = True) -> DataList:
    """Check a data list's JSON content against the schema and against itself, and make a `DataList` of it.

    Args:
        document: the content, as `json.loads` gives it.
        file: where it came from, for the error messages.
        strict: False keeps the problems in `faults` where some cases are understood.
    """
    understood, problems = understand(document, file)
    if strict or understood is None:
        raise_all(problems, f"data list '{file}'" if file else "data list")
    assert understood is not None
    cases = tuple(Case(**{key: _frozen(value) for key, value in entry.items()}) for entry in understood["cases"])
    fields = {key: _frozen(value) for key, value in understood.items()} | {"cases": cases}
    return DataList(**fields, faults=tuple(problems))


def save_data_list(data_list: DataList, path: str | PathLike[str]) -> None:
    """Check a data list and write it, one line for each key and each case.

    Args:
        data_list: the list.
        path: the JSON file; an existing one is replaced.
    """
    document = data_list.document
    parse_data_list(document, file=path)
    lines = [f"  {_json(key)}: {_json(value)}" for key, value in document.items() if key != "cases"]
    cases = ",\n".join(f"    {_json(case)}" for case in document["cases"])
    lines.append(f'  "cases": [\n{cases}\n  ]')
    with atomic_path(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def assign_folds(ids: Sequence[str], groups: Sequence[str | None], n_folds: int, seed: int) -> dict[str, int]:
    """Deal the cases into folds of about equal size, each group as a whole: id -> fold.

    The groups are shuffled by the seed and dealt, largest first, each into the fold with the fewest cases so far. The
    order of `ids` has no influence.

    Args:
        ids: unique case ids.
        groups: each case's group; None for a case that is its own group.
        n_folds: at least 2, at most the number of groups.
        seed: seed of the shuffling.
    """
    if len(set(ids)) < len(ids):
        raise InputError("some case ids occur twice", remedy="give each case an id of its own")
    members = defaultdict(list)
    for case, group in sorted(zip(ids, groups, strict=True)):
        members[(True, group) if group is not None else (False, case)].append(case)
    if not 2 <= n_folds <= len(members):
        raise InputError(
            f"{len(members)} groups (a case without one counts as one) cannot fill {n_folds} folds",
            remedy=f"choose from 2 to {len(members)} folds" if len(members) > 1 else "give more cases or groups",
        )
    shuffled = [list(members)[index] for index in np.random.default_rng(seed).permutation(len(members))]
    folds: dict[str, int] = {}
    sizes = [0] * n_folds
    for group in sorted(shuffled, key=lambda group: -len(members[group])):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members[group])
        folds |= dict.fromkeys(members[group], smallest)
    return {case: folds[case] for case in ids}


def _record(case: Case, root: Path) -> dict[str, Any]:
    paths = [str(root / image) for image in case.images]
    record: dict[str, Any] = {"id": case.id, "image": paths[0] if isinstance(case.image, str) else paths}
    if case.label is not None:
        record["label"] = str(root / case.label)
    return record | ({} if case.group is None else {"group": case.group})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object, whose keys come once: the last of two would count, and nobody would know."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        where = f" of case '{found['id']}'" if "id" in found else ""
        raise InputError(f"the key '{twice}'{where} stands twice", remedy="remove one of the two")
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
