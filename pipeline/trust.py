"""A config that came from elsewhere is data: what it may name and compute is listed here, all else is refused."""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from types import ModuleType
from typing import Any

import torch
from monai.bundle import ComponentLocator, ConfigParser

from pipeline.errors import InputError, raise_all

REFERENCE = re.compile(r"@(?:::|#)*\w+(?:(?:::|#)\w+)*")
MODULES = ("monai", "torch", "ignite", "pipeline", "numpy", "math")
# Packages of classes that compute with what they are given, and execute none of it ...
CLASSES = (
    "monai.data",
    "monai.engines",
    "monai.handlers",
    "monai.inferers",
    "monai.losses",
    "monai.metrics",
    "monai.networks",
    "monai.optimizers",
    "monai.transforms",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "ignite",
    "pipeline",
)
# ... but for these, which unpickle files or fetch code from the network.
NOT = (
    "ignite.distributed",
    "monai.data.dataset",
    "monai.data.image_reader",
    "monai.losses.perceptual",
    "monai.networks.trt_compiler",
    "monai.transforms.io",
    "torch.utils.data.datapipes",
)
BUT = {f"monai.data.dataset.{name}" for name in ("ArrayDataset", "CacheDataset", "Dataset", "SmartCacheDataset")}
BUT |= {f"monai.data.image_reader.{name}Reader" for name in ("ITK", "Nibabel", "PIL")}
FUNCTIONS = {
    "monai.utils.set_determinism",
    "monai.utils.misc.set_determinism",
    "torch.cuda.is_available",
    "torch.cuda.is_bf16_supported",
    "torch.device",
    "pipeline.bundle.check",
    "pipeline.bundle.config",
    "pipeline.bundle.configs_folder",
    "pipeline.bundle.root",
    "pipeline.datalists.check.check_cases",
    "pipeline.datalists.check.check_fits",
    "pipeline.datalists.datalist.load_data_list",
    "pipeline.datalists.embedded.ensure_data",
    "pipeline.datalists.foreground.foreground_intensities",
    "pipeline.handlers.case_scores.higher_is_better",
    "pipeline.inferers.sizes.beyond",
    "pipeline.inferers.sizes.check_sizes",
    "pipeline.losses.weighted.targets_with_weights",
    "pipeline.networks.compilation.is_worthwhile",
    "pipeline.networks.precision.fast_layout",
    "pipeline.networks.precision.number_format",
    "pipeline.predict.records",
    "pipeline.transforms.to_grid.described",
}
PURE = ("pipeline.metrics.",)  # functions of numbers alone
BUILTINS = {"abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "int", "len", "list", "map", "max"}
BUILTINS |= {"min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"}
METHODS = {"endswith", "get", "items", "join", "keys", "lower", "parameters", "records", "run", "split", "startswith"}
METHODS |= {"to", "upper", "values"}
OPTIONS = {"default", "reverse", "start", "strict"}  # of builtins; the others are functions to call
VALUES = (bool, int, float, str, tuple, enum.Enum, torch.dtype, torch.memory_format)
# Parts of an expression that compute and name, and cannot define anything.
HARMLESS = (
    *(ast.Expression, ast.Constant, ast.Load, ast.Store, ast.keyword, ast.Starred, ast.Slice, ast.Subscript),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set, ast.IfExp, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop),
    *(ast.Compare, ast.cmpop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue),
)


def check_config(parser: ConfigParser, file: str | Path) -> None:
    """Refuse a config that would run anything which is not known to be harmless, and name every such entry.

    Allowed are classes of MONAI, torch, Ignite and this package, the functions that its own bundles call, and
    expressions that only compute with these. Nothing is imported that does not belong to them.

    Args:
        parser: holds the config; none of it has been evaluated.
        file: where the config stands, for the message.
    """
    parser.resolve_macro_and_relative_ids()
    problems = [_refusal(*refused, file) for refused in _refused(parser.get(), parser)]
    raise_all(problems, "What this config would run")


def _refusal(path: str, entry: str, reason: str, file: str | Path) -> InputError:
    remedy = "if you know where this config comes from and have read it, say --trust"
    return InputError(f"entry '{path}' is not run, for {reason}: {entry}", file=file, remedy=remedy)


def _refused(config: Any, parser: ConfigParser) -> Iterator[tuple[str, str, str]]:
    """Yield path, content and reason of each entry that is not allowed."""
    entries = list(_entries(config))
    names: dict[str, Any] = {name: module for name, module in parser.globals.items() if isinstance(module, ModuleType)}
    for path, value in entries:
        if isinstance(value, str) and _is_import(value):
            reason = _import(value, names)
            if reason:
                yield path, value, reason
    imports = [path for path, value in entries if isinstance(value, str) and _is_import(value)]
    for path, value in entries:
        if isinstance(value, Mapping):
            reason = _component(value, parser.locator)
            if reason:
                yield path, str(value["_target_"]), reason
        elif not _is_import(value):
            reason = _reference(value, imports) or (_expression(value, names) if value.startswith("$") else None)
            if reason:
                yield path, value, reason


def _entries(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every component, and every text that is computed or refers to another entry, by path."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _entries(child, f"{path}#{key}" if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for place, child in enumerate(node):
            yield from _entries(child, f"{path}#{place}")
    elif isinstance(node, str) and node.startswith(("$", "@")):
        yield path, node


def _component(component: Mapping[str, Any], locator: ComponentLocator) -> str | None:
    """Return why a component may not be built; None where it may."""
    target, mode = component["_target_"], component.get("_mode_", "default")
    if not isinstance(target, str) or target.startswith(("$", "@")):
        return "its target is computed"
    if mode not in ("default", "callable"):
        return f"_mode_ is {mode!r}"
    found = locator.get_component_module_name(target)
    module = found[0] if isinstance(found, list) else found
    name = f"{module}.{target}" if module else target
    if not _is_within(name, MODULES):
        return "its package is none of " + ", ".join(MODULES)
    return _object(name, locate(name))


def _object(name: str, value: Any) -> str | None:
    """Return why an object of an allowed package may not be used."""
    if value is None:
        return "there is no such thing"
    own = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if inspect.isclass(value) and _is_within(own, CLASSES) and (own in BUT or not _is_within(own, NOT)):
        return None
    if {name, own} & FUNCTIONS or isinstance(value, VALUES):
        return None
    if inspect.isfunction(value) and own.startswith(PURE):
        return None
    return "it is not among what is known to be harmless"


def _is_within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_import(text: str) -> bool:
    return bool(re.match(r"\$\s*(import|from)\s", text))


def _import(text: str, names: dict[str, Any]) -> str | None:
    """Note what an import names; return why it is not allowed."""
    try:
        (statement,) = ast.parse(text[1:].strip()).body
    except (SyntaxError, ValueError):
        return "it is no import"
    if isinstance(statement, ast.Import):
        wanted = [(alias.name, alias.name, alias.asname) for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        wanted = [(statement.module, f"{statement.module}.{alias.name}", alias.asname) for alias in statement.names]
    else:
        return "it is no import"
    for module, full, alias in wanted:
        if not _is_within(module, MODULES):
            return "its package is none of " + ", ".join(MODULES)
        if alias or full != module:
            names[alias or full.rpartition(".")[2]] = locate(full)
        else:
            names[full.split(".")[0]] = locate(full.split(".")[0])
    return None


def _reference(text: str, imports: Sequence[str]) -> str | None:
    """Return why the references in a text are not allowed: an import is a module, whose functions have any name."""
    for reference in REFERENCE.findall(text):
        name = reference[1:].replace("::", "#").strip("#")
        if any(path == name or path.startswith(f"{name}#") for path in imports):
            return f"'{reference}' is an import"
    return None


def _expression(text: str, names: Mapping[str, Any]) -> str | None:
    """Return why an expression may not be evaluated; None where it may."""
    try:
        tree = ast.parse(REFERENCE.sub("REFERENCE", text[1:].strip()), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is no expression"
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if taken := sorted(bound & (names.keys() | BUILTINS)):
        return f"'{taken[0]}' means something else here"
    return _node(tree, names, bound | {"REFERENCE"})


def _node(node: ast.AST, names: Mapping[str, Any], plain: set[str]) -> str | None:
    """Return why a part of an expression is not allowed.

    Args:
        node: the part.
        names: what imports have named.
        plain: names of values: references to other entries, and what a comprehension runs over.
    """
    if isinstance(node, ast.Name):
        if node.id in plain or node.id in BUILTINS:
            return None
        value = names.get(node.id)
        return f"'{node.id}' is not known here" if value is None else _object(node.id, value)
    if isinstance(node, ast.Attribute):
        return _attribute(node, names, plain)
    if isinstance(node, ast.Call):
        return _call(node, names, plain)
    if not isinstance(node, HARMLESS):
        return f"a {type(node).__name__.lower()} can do anything"
    return _first(_node(child, names, plain) for child in ast.iter_child_nodes(node))


def _attribute(node: ast.Attribute, names: Mapping[str, Any], plain: set[str]) -> str | None:
    if node.attr.startswith("_"):
        return f"'{node.attr}' is an inner part"
    dotted = _dotted(node)
    if dotted is None or dotted[0] not in names:
        return _node(node.value, names, plain)
    value = names[dotted[0]]
    for part in dotted[1:]:
        if not isinstance(value, ModuleType):
            break  # an attribute of an allowed class, such as a member of an enumeration
        if part.startswith("_"):
            return f"'{part}' is an inner part"
        value = getattr(value, part, None)
    return _object(".".join((_name_of(names[dotted[0]]), *dotted[1:])), value)


def _call(node: ast.Call, names: Mapping[str, Any], plain: set[str]) -> str | None:
    function = node.func
    inner = [*node.args, *(keyword.value for keyword in node.keywords)]
    dotted = _dotted(function)
    if isinstance(function, ast.Attribute) and (dotted is None or dotted[0] not in names):
        if function.attr not in METHODS:
            return f"the method '{function.attr}' is not among {', '.join(sorted(METHODS))}"
        inner.append(function.value)
    elif isinstance(function, ast.Name) and function.id in plain:
        return f"'{ast.unparse(function)}' may be anything"
    elif isinstance(function, ast.Name) and function.id in BUILTINS and not _only_values(function.id, node):
        return f"'{function.id}' would call what it is given"
    else:
        inner.append(function)
    return _first(_node(part, names, plain) for part in inner)


def _only_values(builtin: str, node: ast.Call) -> bool:
    """Tell whether a builtin is given no function to call, but for another builtin."""
    calls = node.args[0] if builtin in ("filter", "map") and node.args else None
    is_harmless = calls is None or ast.unparse(calls) in BUILTINS | {"None"}
    return is_harmless and all(keyword.arg in OPTIONS for keyword in node.keywords)


def _first(reasons: Iterator[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)


def _dotted(node: ast.AST) -> tuple[str, ...] | None:
    """Return `("torch", "cuda", "is_available")` of such an attribute."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


def _name_of(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{value.__qualname__}"
