"""What MONAI's bundle runner lacks: checked overrides, errors that are read, and a bundle as a run's result."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow

from pipeline.errors import InputError, find_input_error, raise_all
from pipeline.volumes.atomic import atomic_write_text

REFERENCE = re.compile(r"[@%](?:::|#)?(\w+)")
# What inference.json keeps as its own when a run's bundle is written; what else both files hold comes from training.
OWN_OF_INFERENCE = {"bundle_root", "dataset_dir", "output_dir", "device", "initialize", "run", "checkpoint"}
OWN_OF_INFERENCE |= {"dataset", "dataloader", "evaluator", "imports"}
# A run folder finds itself, so that it can be moved, zipped and run from anywhere.
MOVABLE_ROOT = "$bundle.root()"


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
    _explain_errors_in_one_line()
    config = settings(parser)
    if workflow is not None:
        own = ConfigParser.load_config_files([str(workflow.config_root_path / name) for name in files])
        _read_flags(parser, config, own)
        problems = [*_unknown_keys(config, own), *_replaced_components(config, own)]
        raise_all(problems, "Settings that nothing would read")
    raise_all(list(_unknown_arguments(config, parser)), "Arguments that their component does not take")


def config() -> dict[str, Any]:
    """Return the running config, overlays and overrides merged, as it stands in the files (`@` and `$` unresolved)."""
    parser = _caller(ConfigParser)
    assert parser is not None, "bundle.config is called from a config"
    return settings(parser)


def configs_folder() -> Path | None:
    """Return the folder that the running config's files stand in, None where no workflow runs them."""
    workflow = _caller(ConfigWorkflow)
    return None if workflow is None else Path(workflow.config_root_path)


def root() -> str:
    """Return the bundle that the running config belongs to: the folder above its `configs`, else the working one."""
    folder = configs_folder()
    return "." if folder is None else str(folder.parent)


def settings(parser: ConfigParser) -> dict[str, Any]:
    """Return a copy of a parser's config without its metadata."""
    return {key: deepcopy(value) for key, value in parser.get().items() if key != ConfigParser.meta_key}


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


# --- checks ---------------------------------------------------------------------------------------------------------


def _read_flags(parser: ConfigParser, config: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Turn the strings true and false into what they say: Python Fire hands `--resume false` over as a true string."""
    for key, value in own.items():
        given = config.get(key)
        if isinstance(value, bool) and isinstance(given, str) and given.lower() in ("true", "false"):
            config[key] = given.lower() == "true"
            parser.get()[key] = config[key]
            parser.ref_resolver.items[key].update_config(config[key])


def _unknown_keys(config: Mapping[str, Any], own: Mapping[str, Any], path: str = "") -> Iterator[InputError]:
    """Yield the keys of plain mappings that neither the bundle's files nor any reference knows."""
    referred = set(REFERENCE.findall(json.dumps(config, default=str))) if not path else set()
    for key in config:
        if key not in own and key not in referred:
            yield InputError(f"unknown setting '{path}{key}'", remedy=_did_you_mean(key, own))
    for key, value in own.items():
        given = config.get(key)
        if isinstance(value, Mapping) and "_target_" not in value and isinstance(given, Mapping):
            yield from _unknown_keys(given, value, f"{path}{key}#")


def _replaced_components(config: Any, own: Any, path: str = "") -> Iterator[InputError]:
    """Yield settings whose kind changed so that no run could mean it: a component that became a mapping or number."""
    is_expression = isinstance(config, str) and config[:1] in "$@%"
    if isinstance(own, Mapping) and "_target_" in own:
        if isinstance(config, Mapping) and "_target_" not in config:
            leaves = ", ".join(f"{path}#{key}" for key in config)
            reason = f"the mapping given for '{path}' would replace the component {own['_target_']}"
            yield InputError(reason, remedy=f"override its leaves ({leaves}), or name a _target_")
        elif not isinstance(config, Mapping) and config is not None and not is_expression:
            yield InputError(
                f"'{path}' is a component ({own['_target_']}), not {config!r}",
                remedy=f"override its leaves, {path}#...",
            )
    elif isinstance(own, int | float) and not isinstance(own, bool) and not is_expression:
        if not isinstance(config, int | float) and config is not None:
            yield InputError(f"'{path}' is a number, not {config!r}", remedy=f"give a number, such as {own}")
    elif isinstance(own, bool) and not isinstance(config, bool) and not is_expression:
        yield InputError(f"'{path}' is true or false, not {config!r}", remedy="say true or false")
    if isinstance(own, Mapping) and isinstance(config, Mapping):
        for key in own.keys() & config.keys():
            yield from _replaced_components(config[key], own[key], f"{path}#{key}" if path else key)


def _unknown_arguments(node: Any, parser: ConfigParser, path: str = "") -> Iterator[InputError]:
    """Yield the arguments that a component's own signature does not have."""
    if isinstance(node, Mapping):
        if ConfigComponent.is_instantiable(node):
            yield from _unknown_arguments_of(node, parser, path)
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from _unknown_arguments(child, parser, f"{path}#{key}" if path else str(key))


def _unknown_arguments_of(node: Mapping[str, Any], parser: ConfigParser, path: str) -> Iterator[InputError]:
    name = ConfigComponent(config=node, id=path, locator=parser.locator).resolve_module_name()
    target = locate(name) if isinstance(name, str) else name
    if target is None:
        yield InputError(
            f"'{path}': there is no component {node['_target_']}", remedy="check the spelling of its _target_"
        )
        return
    try:
        parameters = inspect.signature(target).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return  # written in C without a signature: it will speak for itself
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in node:
        if key not in parameters and not (key.startswith("_") and key.endswith("_")):
            yield InputError(
                f"{node['_target_']} takes no argument '{path}#{key}'", remedy=_did_you_mean(key, parameters)
            )


def _did_you_mean(key: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(key, list(known), n=1)
    return f"did you mean {near[0]}?" if near else "known here: " + ", ".join(str(name) for name in known)


# --- errors ---------------------------------------------------------------------------------------------------------


def _explain_errors_in_one_line() -> None:
    """Let `python -m monai.bundle` end with the user's mistake in one line, not with forty lines of parser frames."""
    if getattr(sys.modules["__main__"].__spec__, "name", None) == "monai.bundle.__main__":
        sys.excepthook = _print_input_error


def _print_input_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    problem = find_input_error(error)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# --- export ---------------------------------------------------------------------------------------------------------


def export(folder: Path, config: Mapping[str, Any], source: Path, data_list: Path | None) -> None:
    """Write the configs of a run as a complete bundle that needs nothing but the installed package.

    Args:
        folder: the run's folder, which becomes the bundle.
        config: the config as it runs, overlays and overrides merged.
        source: the `configs` folder that the run was started from.
        data_list: the list of its cases, copied into the bundle.
    """
    configs = folder / "configs"
    train = {**config, "bundle_root": MOVABLE_ROOT, "resume": False, "run_name": None}
    if data_list is not None:
        _copy(data_list, configs / "data_list.json")
        train["data_list"] = "$@bundle_root + '/configs/data_list.json'"
    write_config(configs / "train.json", train)
    for name in ("evaluate.json", "multi_gpu.json", "logging.conf"):
        _copy(source / name, configs / name)
    if (source / "inference.json").is_file():
        write_config(configs / "inference.json", inference_config(config, source / "inference.json"))
    _copy(source.parent / "LICENSE", folder / "LICENSE")


def inference_config(train: Mapping[str, Any], inference_file: Path) -> dict[str, Any]:
    """Return the inference config of a run: the bundle's own, with all that both files hold as training had it."""
    own = ConfigParser.load_config_file(str(inference_file))
    shared = {key: deepcopy(train[key]) for key in own if key in train and key not in OWN_OF_INFERENCE}
    imports = [*own["imports"], *(line for line in train["imports"] if line not in own["imports"])]
    return {**own, **shared, "imports": imports, "bundle_root": MOVABLE_ROOT}


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a config as JSON, by rename."""
    atomic_write_text(file, json.dumps(config, indent=4) + "\n")


def _copy(source: Path, target: Path) -> None:
    """Copy a file if there is one; a run that is resumed by its own configs has it in place already."""
    if source.is_file() and source.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
