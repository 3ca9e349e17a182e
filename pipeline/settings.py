"""What can be wrong with a config's settings, found before anything runs."""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, islice
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from monai.bundle import ConfigComponent, ConfigParser

from pipeline import ranks
from pipeline.backends import BACKENDS
from pipeline.errors import InputError, did_you_mean
from pipeline.networks import compilation
from pipeline.networks.precision import PRECISIONS

REFERENCE = re.compile(r"[@%](?:::|#)?(\w+)")
RESERVED = {"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}  # what MONAI reads of a component itself
RUN_IDS = ("training", "evaluating", "inference", "run")
SHARED_IDS = ("training", "evaluating")  # what several processes can do together
TEXTS = {"run_name"}  # whose own value is null
# Of an inference config, what decides on no voxel of a label map.
WHERE_NOT_WHAT = {"backend", "bundle_root", "checkpoint", "dataset_dir", "device", "input_dir", "num_shards"}
WHERE_NOT_WHAT |= {"memory", "output_dir", "precision", "resume", "shard_id", "track"}
PATHS = {"input_dir", "output_dir", "dataset_dir", "data_list", "bundle_root", "run_name"}
# The least that a setting of this name can be, in every config that has it.
WHOLE_NUMBERS = {"epochs": 1, "val_interval": 1, "patience": 1, "batch_size": 1}
WHOLE_NUMBERS |= {"accumulation_steps": 1, "num_workers": 0, "seed": 0, "fold": 0, "in_channels": 1, "spatial_dims": 2}
WHOLE_NUMBERS |= {"num_shards": 1, "shard_id": 0, "zarr_level": 0}
MOST_ENTRIES, DEEPEST = 100_000, 100  # of a config file; the largest of the bundles' has some hundreds, and ten levels
CHOICES = {"precision": PRECISIONS, "compile": compilation.CHOICES, "backend": BACKENDS}


def of(parser: ConfigParser) -> dict[str, Any]:
    """Return a copy of a parser's config without its metadata."""
    return {key: deepcopy(value) for key, value in parser.get().items() if key != ConfigParser.meta_key}


def read_config(file: str | Path) -> dict[str, Any]:
    """Return what a config file says; whatever it holds instead of a config is an error.

    An alias of YAML repeats what its anchor says: ten lines can unfold to more than any memory holds, and an anchor
    within itself never ends. Only what is no larger than `MOST_ENTRIES` and no deeper than `DEEPEST` is a config.
    """
    remedy = "name a JSON or YAML file of settings"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Duplicate key")  # by MONAI, for which the last of two counts
            content = ConfigParser.load_config_file(str(file))
    except (ValueError, TypeError, UserWarning, RecursionError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise InputError(f"is no config: {str(problem).splitlines()[0]}{line}", file=file, remedy=remedy) from error
    if not isinstance(content, dict):
        raise InputError("is no config: it holds no mapping of settings to values", file=file, remedy=remedy)
    count = depth = 0
    level: list[Any] = [content]
    while level:
        count, depth = count + len(level), depth + 1
        if count > MOST_ENTRIES or depth > DEEPEST:
            reason = f"is no config: it unfolds to more than {MOST_ENTRIES} entries, or {DEEPEST} levels"
            raise InputError(reason, file=file, remedy=remedy)
        try:
            level = list(islice(chain.from_iterable(map(_children, level)), MOST_ENTRIES + 1))
        except InputError as error:
            raise InputError(error.reason, file=file, remedy=error.remedy) from None
    return content


def _children(node: Any) -> Iterable[Any]:
    if not isinstance(node, dict):
        return node if isinstance(node, list) else ()
    if odd := [key for key in node if not isinstance(key, str)]:
        raise InputError(f"is no config: its key {odd[0]!r} is no word", remedy=f"write it as '{odd[0]}'")
    return node.values()


def misused_files(parser: ConfigParser, files: Sequence[str], run_id: str) -> Iterator[InputError]:
    """Yield what is wrong with the choice of config files, run id and processes."""
    config = parser.get()
    if run_id not in config:
        known = [key for key in RUN_IDS if key in config]
        yield InputError(f"there is no run id '{run_id}' in {', '.join(files)}", remedy=did_you_mean(run_id, known))
    if "multi_gpu.json" in files and "RANK" not in os.environ:
        start = "torchrun --standalone --nproc_per_node=2 -m monai.bundle run training --config_file ..."
        yield InputError("'multi_gpu.json' is for processes that torchrun starts", remedy=start)
    if "multi_gpu.json" not in files and run_id in SHARED_IDS and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        listed = ",".join(f"'.../{name}'" for name in (*files, "multi_gpu.json"))
        reason = "torchrun has started several processes, and each would do all of this for itself"
        yield InputError(reason, remedy=f'--config_file "[{listed}]"')
    if run_id == "training" and "batch_size" in config and ranks.size() > 1:
        try:
            ranks.share(parser.get_parsed_content("batch_size"))
        except InputError as error:
            yield error


def read_words(parser: ConfigParser, own: Mapping[str, Any]) -> None:
    """Undo what Python Fire guesses of a word: `--resume false` becomes a true string, `--run_name 7` a number."""
    config = parser.get()
    for key, value in own.items():
        given = config.get(key)
        if isinstance(value, bool) and isinstance(given, str) and given.lower() in ("true", "false"):
            meant: Any = given.lower() == "true"
        elif (isinstance(value, str) or key in TEXTS) and isinstance(given, int | float):
            meant = str(given)
        else:
            continue
        config[key] = meant
        parser.ref_resolver.items[key].update_config(meant)


def unknown_keys(config: Mapping[str, Any], own: Mapping[str, Any], path: str = "") -> Iterator[InputError]:
    """Yield the keys of plain mappings that neither the bundle's files nor any reference knows."""
    referred = set(REFERENCE.findall(json.dumps(config, default=str))) if not path else set()
    for key in config:
        if key not in own and key not in referred:
            yield InputError(f"unknown setting '{path}{key}'", remedy=did_you_mean(key, own))
    for key, value in own.items():
        given = config.get(key)
        if isinstance(value, Mapping) and "_target_" not in value and isinstance(given, Mapping):
            yield from unknown_keys(given, value, f"{path}{key}#")


def replaced_components(config: Any, own: Any, path: str = "", is_argument: bool = False) -> Iterator[InputError]:
    """Yield settings whose kind changed so that no run could mean it: a component that became a mapping or number.

    A component's argument (`is_argument`) that is a number may become several, one for each axis.
    """
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
        several = is_argument and isinstance(config, list) and all(isinstance(entry, int | float) for entry in config)
        if not isinstance(config, int | float) and config is not None and not several:
            yield InputError(f"'{path}' is a number, not {config!r}", remedy=f"give a number, such as {own}")
    elif isinstance(own, bool) and not isinstance(config, bool) and not is_expression:
        yield InputError(f"'{path}' is true or false, not {config!r}", remedy="say true or false")
    if isinstance(own, Mapping) and isinstance(config, Mapping):
        for key in own.keys() & config.keys():
            yield from replaced_components(config[key], own[key], f"{path}#{key}" if path else key, "_target_" in own)


def unknown_arguments(node: Any, parser: ConfigParser, path: str = "") -> Iterator[InputError]:
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
        yield from unknown_arguments(child, parser, f"{path}#{key}" if path else str(key))


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
    known = {*parameters, *RESERVED}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        handed_on = _handed_on(target)
        if handed_on is None:
            return
        known |= handed_on
    for key in node:
        if key not in known:
            yield InputError(
                f"{node['_target_']} takes no argument '{path}#{key}'", remedy=did_you_mean(key, known - {*RESERVED})
            )


def _handed_on(target: Any) -> set[str] | None:
    """The arguments that a class with `**kwargs` hands on to its bases; None where that cannot be known."""
    if not inspect.isclass(target):
        return None
    names: set[str] = set()
    for base in target.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return names
    return None  # the last base takes anything


def impossible_values(parser: ConfigParser) -> Iterator[InputError]:
    """Yield the settings whose value no run can have: counts below their least, an absent device, a barred folder."""
    config = parser.get()
    values = {
        key: parser.get_parsed_content(key)
        for key in (*WHOLE_NUMBERS, "learning_rate", "crops_per_case")
        if key in config
    }
    for key, least in WHOLE_NUMBERS.items():
        value = values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            yield InputError(f"'{key}' is {value!r}", remedy=f"give a whole number, {least} or more")
    for key in ("learning_rate", "crops_per_case"):
        number = values.get(key, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
            yield InputError(f"'{key}' is {number!r}", remedy="give a number above 0")
    yield from _unknown_choices(parser)
    yield from _misfitting_network(parser)
    if "device" in config:
        yield from _absent_device(parser.get_parsed_content("device"))
    for key in PATHS & config.keys():
        if isinstance(config[key], str) and "::" in config[key] and config[key][0] not in "$@%":
            reason = f"MONAI reads the # of the path '{key}' as a sign of its own: '{config[key]}'"
            remedy = "rename the folder, or predict with python -m pipeline predict"
            yield InputError(reason, remedy="give a name without #" if key == "run_name" else remedy)
    if "output_dir" in config:
        yield from _barred_folder("output_dir", Path(str(parser.get_parsed_content("output_dir"))))


def _unknown_choices(parser: ConfigParser) -> Iterator[InputError]:
    """A word that is none of those that a setting knows; true and false count as words."""
    for key in CHOICES.keys() & parser.get().keys():
        value = str(parser.get_parsed_content(key))
        if value.lower() not in CHOICES[key]:
            yield InputError(f"'{key}' is {value!r}", remedy=f"choose from {', '.join(CHOICES[key])}")


def _misfitting_network(parser: ConfigParser) -> Iterator[InputError]:
    """A network whose channels are not those of the images, or not a class (a region, the one foreground) each."""
    config = parser.get()
    network = config.get("network_def")
    known = {key: parser.get_parsed_content(key) for key in ("in_channels", "class_names", "regions") if key in config}
    fits = {"in_channels": {known["in_channels"]}} if "in_channels" in known else {}
    if "class_names" in known:
        classes = len(known.get("regions") or known["class_names"])
        # The one output of a sigmoid is enough for two classes.
        fits["out_channels"] = {1, 2} if classes == 2 and not known.get("regions") else {classes}
    for key, allowed in fits.items():
        if not isinstance(network, Mapping) or key not in network:
            continue
        value = parser.get_parsed_content(f"network_def#{key}")
        if value not in allowed:
            source = "in_channels" if key == "in_channels" else "class_names"
            wanted = " or ".join(map(str, sorted(allowed)))
            reason = f"'network_def#{key}' is {value}, where '{source}' asks for {wanted}"
            yield InputError(reason, remedy=f"leave it to follow --{source}")


def _absent_device(device: Any) -> Iterator[InputError]:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = f"the device '{device}' cannot be used: {str(error).splitlines()[0]}"
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        yield InputError(reason, remedy=f"--device {' or '.join(there)}")


def _barred_folder(key: str, folder: Path) -> Iterator[InputError]:
    """Look at the nearest part of the path that exists, for the rest will be made."""
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.lexists(part))
    if not there.is_dir():
        yield InputError(f"'{there}' is no folder", file=folder, remedy=f"give another --{key}")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield InputError(f"nothing may be written into '{there}'", file=folder, remedy=f"give another --{key}")
