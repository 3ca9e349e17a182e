"""The file that describes a sweep, read and checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna import pruners, samplers

from pipeline.errors import InputError, did_you_mean, raise_all
from pipeline.sweeps import space
from pipeline.sweeps.space import Axis

SAMPLERS = {"grid": None, "random": samplers.RandomSampler, "tpe": samplers.TPESampler}
PRUNERS = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
}
OF_THE_SWEEP = {"run_name", "resume", "output_dir"}  # settings that every trial is given by the sweep itself
LONGEST_NAME = 200  # bytes; a folder's name may have 255, and a trial's has its number and fold besides
HIGHEST_SEED = 2**31  # NumPy's end at 2**32, and TPE adds the trial's number
PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]*@|(password=)[^&\s\"']*")
Method = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Args:
        name: of the sweep, its folder, its parent run and, with a number, its trials.
        config_file: the bundle's config and overlays that all trials have.
        space: what varies.
        overrides: settings that all trials have, by their path in the config.
        sampler, pruner: their name and options.
        trials: how many; None for a whole grid.
        folds: trained one after the other by every trial; none for the config's own.
        metric: the score of a trial, over all validation cases of its folds, each counting once.
        direction: "maximize" or "minimize".
        seed: of the sampler.
        storage: Optuna's database, as an SQLAlchemy URL; None for a SQLite file in the sweep's folder.
        output_dir: where the sweep's folder goes.
    """

    name: str
    config_file: tuple[str, ...]
    space: tuple[Axis, ...]
    overrides: dict[str, Any]
    sampler: Method
    pruner: Method
    trials: int | None
    folds: tuple[int, ...]
    metric: str
    direction: Literal["maximize", "minimize"]
    seed: int
    storage: str | None
    output_dir: str

    @property
    def folder(self) -> Path:
        """Where the study, the table of results and the trials' run folders are."""
        return Path(self.output_dir, self.name)

    @property
    def total(self) -> int:
        """The number of trials, no more than the space has points; TPE may come to a point twice."""
        points = None if self.sampler[0] == "tpe" else space.size(self.space)
        return min(number for number in (self.trials, points) if number is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay as it is for a sweep to be continued: all but the number of trials and the places."""
        found = {key: value for key, value in vars(self).items() if key not in ("trials", "storage", "output_dir")}
        return found | {"space": {axis.key: axis.description for axis in self.space}}


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number, as in JSON, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_sweep(file: str | Path, trials: int | None = None) -> Sweep:
    """Return the sweep that a file describes; all that is wrong with the file is one error.

    Args:
        file: YAML.
        trials: how many, instead of what the file says.
    """
    content = _load(Path(file))
    if trials is not None:
        content["trials"] = trials
    content.setdefault("name", Path(file).stem)
    known = [*READERS, "space"]
    problems = [
        InputError(f"unknown key '{key}'", remedy=did_you_mean(str(key), known)) for key in content.keys() - known
    ]
    found: dict[str, Any] = {}
    for key, (read, default) in READERS.items():
        try:
            found[key] = read(key, content.get(key, default))
        except InputError as problem:
            problems.append(problem)
    axes: list[Axis] = []
    entries = content.get("space") or {}
    if not isinstance(entries, dict) or not entries:
        fault = f"is {entries!r}" if entries else "is missing"
        problems.append(InputError(f"'space' {fault}", remedy="say what to vary, as optimizer#lr: {log: [1e-5, 1e-2]}"))
        entries = {}
    for key, entry in entries.items():
        try:
            axes.append(space.read_axis(str(key), entry))
        except InputError as problem:
            problems.append(problem)
    problems += _contradictions(axes, found)
    raise_all([_in_file(problem, file) for problem in problems], "Sweep file")
    return Sweep(space=tuple(axes), **found)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(), _Loader)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot be read: {error}", file=file, remedy="give a sweep file, such as sweeps/example.yaml"
        ) from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise InputError(f"is no YAML{line}: {getattr(error, 'problem', error)}", file=file) from error
    if not isinstance(content, dict):
        raise InputError("is no mapping of keys to values", file=file, remedy="begin with config_file: ...")
    return content


def without_passwords(text: str) -> str:
    """Return a sweep file's text as others may see it: `postgresql://me:secret@host` becomes `postgresql://me:***@host`."""
    return PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def _contradictions(axes: list[Axis], found: Mapping[str, Any]) -> Iterator[InputError]:
    """Yield what does not go together: settings that are said twice, a grid without end, no number of trials."""
    sampler = found.get("sampler", ("", {}))[0]
    if sampler in ("random", "tpe") and "trials" in found and found["trials"] is None:
        yield InputError(f"'trials' is missing, which the sampler {sampler} needs", remedy="say trials: 20")
    for axis in axes:
        if sampler == "grid" and axis.points() is None:
            remedy = "list its values, give a step, or take the sampler random or tpe"
            yield InputError(f"a grid has no end along '{axis.key}'", remedy=remedy)
        if axis.key in found.get("overrides", {}):
            yield InputError(f"'{axis.key}' stands in both space and overrides", remedy="leave one of them out")
    for key in [axis.key for axis in axes] + list(found.get("overrides", {})):
        if key in OF_THE_SWEEP:
            yield InputError(f"'{key}' is what the sweep gives each of its trials", remedy="leave it out")
        elif key == "fold" and found.get("folds"):
            yield InputError("'fold' is set beside 'folds'", remedy="leave one of them out")


def _in_file(problem: InputError, file: str | Path) -> InputError:
    return InputError(problem.reason, file=file, remedy=problem.remedy)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"'{key}' is {value!r}", remedy=f"give a word, {key}: ...")
    return value


def _optional_text(key: str, value: Any) -> str | None:
    return None if value is None else _text(key, value)


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.\-]*", value):
        raise InputError(f"'{key}' is {value!r}", remedy="give letters, digits, '-', '_' and '.': it names a folder")
    if len(value.encode()) > LONGEST_NAME:
        raise InputError(f"'{key}' is longer than {LONGEST_NAME} letters", remedy="shorten it: it names a folder")
    return value


def _files(key: str, value: Any) -> tuple[str, ...]:
    if not value:
        raise InputError(f"'{key}' is missing", remedy=f"say {key}: bundles/unet/configs/train.json")
    files = value if isinstance(value, list) else [value]
    for file in files:
        if not isinstance(file, str) or not Path(file).is_file():
            raise InputError(f"'{key}': there is no file '{file}'", remedy="give the path from the working directory")
    return tuple(files)


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"'{key}' is {value!r}", remedy=f"give keys with values below {key}:")
    return {str(name): entry for name, entry in value.items()}


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _trials(key: str, value: Any) -> int | None:
    if value is not None and not _is_count(value, 1):
        raise InputError(f"'{key}' is {value!r}", remedy="give a whole number, 1 or more")
    return value


def _seed(key: str, value: Any) -> int:
    if not _is_count(value, 0) or value > HIGHEST_SEED:
        raise InputError(f"'{key}' is {value!r}", remedy=f"give a whole number from 0 to {HIGHEST_SEED}")
    return int(value)


def _folds(key: str, value: Any) -> tuple[int, ...]:
    folds = value if isinstance(value, list) else [value]
    if not all(_is_count(fold, 0) for fold in folds) or len(set(folds)) < len(folds):
        raise InputError(f"'{key}' is {value!r}", remedy="give a list of different folds, such as [0, 1, 2]")
    return tuple(folds)


def _metric(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("val/"):
        raise InputError(f"'{key}' is {value!r}", remedy="give a validation score, such as val/mean_dice")
    return value


def _direction(key: str, value: Any) -> str:
    if value not in ("maximize", "minimize"):
        raise InputError(f"'{key}' is {value!r}", remedy="say maximize or minimize")
    return str(value)


def _method_of(known: Mapping[str, Any]) -> Callable[[str, Any], Method]:
    """Return a reader of `median` or `{median: {n_startup_trials: 3}}`."""

    def read(key: str, value: Any) -> Method:
        value = "none" if value is None and "none" in known else value
        name, options = next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else (value, {})
        if not isinstance(name, str) or name not in known:
            raise InputError(f"there is no {key} {name!r}", remedy=did_you_mean(str(name), known))
        options = _mapping(f"{key}: {name}", options or {})
        takes = {} if known[name] is None else dict(inspect.signature(known[name]).parameters)
        takes.pop("seed", None)  # which has a key of its own
        for option, given in options.items():
            if option not in takes:
                remedy = did_you_mean(option, takes) if takes else "leave it out"
                raise InputError(f"the {key} {name} has no option '{option}'", remedy=remedy)
            hint = getattr(takes[option].annotation, "__name__", takes[option].annotation)
            if not _suits(given, hint):
                raise InputError(f"the {key} {name} has {option}: {given!r}", remedy=f"give what Optuna takes: {hint}")
        try:
            if known[name] is not None:
                known[name](**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"the {key} {name} refuses its options: {error}") from error
        return name, options

    return read


def _suits(value: Any, hint: str) -> bool:
    """Return whether a value is of a type hint, as Optuna writes it: `float`, `int | None`."""
    own = {"int": {"int", "float"}, "NoneType": {"None"}}.get(type(value).__name__, {type(value).__name__})
    return not own.isdisjoint(hint.split(" | "))


READERS: dict[str, tuple[Callable[[str, Any], Any], Any]] = {
    "name": (_name, None),
    "config_file": (_files, None),
    "overrides": (_mapping, {}),
    "sampler": (_method_of(SAMPLERS), "grid"),
    "pruner": (_method_of(PRUNERS), "none"),
    "trials": (_trials, None),
    "folds": (_folds, []),
    "metric": (_metric, "val/mean_dice"),
    "direction": (_direction, "maximize"),
    "seed": (_seed, 0),
    "storage": (_optional_text, None),
    "output_dir": (_text, "runs"),
}
