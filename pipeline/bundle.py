"""What MONAI's bundle runner lacks: checked overrides, a config that knows itself, and a bundle as a run's result."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from pipeline import console, ranks, settings
from pipeline.errors import raise_all
from pipeline.volumes.atomic import atomic_write_bytes, atomic_write_text

# What inference.json keeps as its own when a run's bundle is written; what else both files hold comes from training.
OWN_OF_INFERENCE = {"bundle_root", "dataset_dir", "output_dir", "device", "initialize", "run", "checkpoint"}
OWN_OF_INFERENCE |= {"dataset", "dataloader", "evaluator", "imports", "network", "resume", "precision", "backend"}
IMPORTED = re.compile(r"(\w+)\s*$")  # the name that a line of `imports` makes known
# A run folder finds itself, so that it can be moved, zipped and run from anywhere.
MOVABLE_ROOT = "$bundle.root()"
MULTI_GPU = "multi_gpu.json"  # the overlay for several processes, known by its key `distributed`


def check(*files: str) -> None:
    """Refuse overrides that would be ignored: the first line of every config's `initialize`.

    MONAI takes any key on the command line or in an overlay, also one that nothing reads. A key is known when the
    bundle's own `files` (names inside its `configs` folder) hold it, when something refers to it, or when the component
    that it is an argument of accepts it. All unknown keys are reported together, each with the nearest known one.

    Args:
        files: the bundle's own config files that this run is made of, such as "train.json", "evaluate.json".
    """
    parser, workflow = _caller(ConfigParser), _caller(ConfigWorkflow)
    assert parser is not None, "bundle.check is called by a config's `initialize`"
    console.explain_mistakes()
    if parser.get().get("distributed"):
        files = (*files, MULTI_GPU)
    if ranks.are_started() and "train.json" in files:
        ranks.start()
        console.explain_mistakes()  # in place of torch's own way, which says every line of every rank
    if workflow is not None:
        own = ConfigParser.load_config_files([str(workflow.config_root_path / name) for name in files])
        raise_all([*settings.misused_files(parser, files, workflow.run_id)], "Config files")
        settings.read_words(parser, own)
        config = settings.of(parser)
        problems = [*settings.unknown_keys(config, own), *settings.replaced_components(config, own)]
        raise_all(problems, "Settings that nothing would read")
    raise_all([*settings.unknown_arguments(settings.of(parser), parser)], "Arguments that no component takes")
    raise_all([*settings.impossible_values(parser)], "Settings that no run can have")


def config(**computed: Any) -> dict[str, Any]:
    """Return the running config, overlays and overrides merged, as it stands in the files (`@` and `$` unresolved).

    Args:
        computed: what a run finds in its training data, by key: the bundle that it leaves has the values in place of
            what computes them, and needs the data no more.
    """
    parser = _caller(ConfigParser)
    assert parser is not None, "bundle.config is called from a config"
    return {**settings.of(parser), **deepcopy(computed)}


def configs_folder() -> Path | None:
    """Return the folder that the running config's files stand in, None where no workflow runs them."""
    workflow = _caller(ConfigWorkflow)
    return None if workflow is None else Path(workflow.config_root_path)


def root() -> str:
    """Return the bundle that the running config belongs to: the folder above its `configs`, else the working one."""
    folder = configs_folder()
    return "." if folder is None else str(folder.parent)


def given(path: str) -> bool:
    """Return whether a program that runs this config has put values in the place of what computes them.

    MONAI Label gives a training its own cases; what the data list says of other files is then of no concern.

    Args:
        path: of an entry that the bundle itself computes, such as "train#dataset#data".
    """
    parser = _caller(ConfigParser)
    assert parser is not None, "bundle.given is called from a config"
    return not isinstance(parser[path], str)


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by path: `{"a": {"b": [1]}}` gives `{"a/b/0": 1}`."""
    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(node, Mapping) and node:
        items = iter(node.items())
    elif isinstance(node, list | tuple) and node and any(isinstance(item, Mapping | list | tuple) for item in node):
        items = iter(enumerate(node))
    if items is None:
        return {prefix: node}
    return {
        path: leaf
        for key, child in items
        for path, leaf in flatten(child, f"{prefix}/{key}" if prefix else str(key)).items()
    }


def _caller(kind: type) -> Any:
    """Return the nearest object of a kind whose method is running now.

    MONAI hands a `$` expression neither its parser nor its workflow, and both are needed to see what was overridden:
    they are found where they stand, as `self` further down the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


def export(folder: Path, config: Mapping[str, Any], source: Path, data_list: Path | None) -> None:
    """Write the configs of a run as a complete bundle that needs nothing but the installed package.

    Args:
        folder: the run's folder, which becomes the bundle.
        config: the config as it runs, overlays and overrides merged.
        source: the `configs` folder that the run was started from.
        data_list: the list of its cases, copied into the bundle.
    """
    configs = folder / "configs"
    train = {**of_one_process(config, source), "bundle_root": MOVABLE_ROOT, "resume": False, "run_name": None}
    if data_list is not None:
        _copy(data_list, configs / "data_list.json")
        train["data_list"] = "$@bundle_root + '/configs/data_list.json'"
    write_config(configs / "train.json", train)
    for name in ("evaluate.json", MULTI_GPU, "logging.conf"):
        _copy(source / name, configs / name)
    if (source / "inference.json").is_file():
        write_config(configs / "inference.json", inference_config(config, source / "inference.json"))
    _copy(source.parent / "LICENSE", folder / "LICENSE")


def of_one_process(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return a config without what `multi_gpu.json` gave it: a run is used on one device, and resumed on any number."""
    if not config.get("distributed"):
        return dict(config)
    made = deepcopy(dict(config))
    own = ConfigParser.load_config_file(str(source / "train.json"))
    for path, value in ConfigParser.load_config_file(str(source / MULTI_GPU)).items():
        *parents, key = path.split("#")
        inside, plain = made, own
        for parent in parents:
            inside, plain = inside[parent], plain[parent]
        if _spelled_alike(inside.get(key)) != _spelled_alike(value):
            continue  # the user's own word, such as --device cpu
        if key in plain:
            inside[key] = plain[key]
        else:
            del inside[key]
    return made


def _spelled_alike(value: Any) -> str:
    """A value as text; MONAI turns the `#` of references into `::` when it reads a config."""
    return json.dumps(value, sort_keys=True).replace("#", "::")


def inference_config(train: Mapping[str, Any], inference_file: Path) -> dict[str, Any]:
    """Return the inference config of a run: the bundle's own, with all that both files hold as training had it."""
    own = ConfigParser.load_config_file(str(inference_file))
    shared = {key: deepcopy(train[key]) for key in own if key in train and key not in OWN_OF_INFERENCE}
    while named := set(settings.REFERENCE.findall(json.dumps(shared))) & train.keys() - own.keys() - shared.keys():
        shared |= {key: deepcopy(train[key]) for key in named}  # a variable of the user's own
    made = {**own, **shared, "bundle_root": MOVABLE_ROOT}
    words = set(re.findall(r"\w+", json.dumps(made)))
    # Of what training imports, only what is used: the less a config runs, the fewer ask for `--trust`.
    others = [line for line in train["imports"] if line not in own["imports"] and words & set(IMPORTED.findall(line))]
    return {**made, "imports": [*own["imports"], *others]}


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a config as JSON, by rename."""
    atomic_write_text(file, json.dumps(config, indent=4) + "\n")


def _copy(source: Path, target: Path) -> None:
    """Copy a file if there is one; a run that is resumed by its own configs has it in place already."""
    if source.is_file() and source.resolve() != target.resolve():
        atomic_write_bytes(target, source.read_bytes())
