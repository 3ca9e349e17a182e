"""A config that came from elsewhere is data: what it may name and compute is listed here, all else is refused."""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monai.bundle import ComponentLocator, ConfigParser, ReferenceResolver

from pipeline.errors import InputError, raise_all
from pipeline.expression_size import Sizes, TooLargeError

MODULES = ("monai", "torch", "ignite", "pipeline", "numpy", "math")
# Modules that an import may name: those of the bundles here, and packages that are loaded in any case.
IMPORTS = {"ignite", "math", "monai", "monai.data", "monai.inferers", "monai.networks", "monai.networks.nets"}
IMPORTS |= {"monai.transforms", "monai.utils", "numpy", "torch", "torch.nn", "pipeline.bundle", "pipeline.predict"}
IMPORTS |= {f"pipeline.datalists.{name}" for name in ("check", "datalist", "embedded")}
IMPORTS |= {"pipeline.handlers.case_scores", "pipeline.inferers.sizes", "pipeline.losses.weighted"}
IMPORTS |= {"pipeline.networks.compilation", "pipeline.networks.precision", "pipeline.transforms.to_grid"}
# Modules whose classes compute with what they are given: to build or call one executes none of it, imports nothing
# that it names, asks no network, and writes no file but for the writers of images (pipeline.transforms).
CLASSES = (
    *(f"monai.networks.blocks.{name}" for name in ("acti_norm", "activation", "aspp", "convolutions", "denseblock")),
    *(f"monai.networks.blocks.{name}" for name in ("crossattention", "downsample", "dynunet_block", "mednext_block")),
    *(f"monai.networks.blocks.{name}" for name in ("mlp", "patchembedding", "segresnet_block", "selfattention")),
    *(f"monai.networks.blocks.{name}" for name in ("spatialattention", "squeeze_and_excitation", "transformerblock")),
    *(f"monai.networks.blocks.{name}" for name in ("unetr_block", "upsample")),
    *(f"monai.networks.layers.{name}" for name in ("drop_path", "simplelayers")),
    *(
        f"monai.networks.nets.{name}"
        for name in ("attentionunet", "basic_unet", "basic_unetplusplus", "dynunet", "unet")
    ),
    *(f"monai.networks.nets.{name}" for name in ("segresnet", "segresnet_ds", "unetr", "vnet")),
    "monai.transforms.compose",
    *(f"monai.transforms.{kind}" for kind in ("croppad", "intensity", "post", "spatial")),
    "pipeline.inferers",
    "pipeline.networks",
    "pipeline.transforms",
    "torch.nn.modules",
)
NOT = "SaveClassification"  # a table under any name
SINGLE_CLASSES = {
    *(f"monai.data.dataset.{name}" for name in ("CacheDataset", "Dataset")),
    "monai.data.dataloader.DataLoader",
    "monai.engines.evaluator.SupervisedEvaluator",
    *(f"monai.inferers.inferer.{name}" for name in ("SimpleInferer", "SliceInferer")),
    *(f"monai.inferers.inferer.SlidingWindowInferer{kind}" for kind in ("", "Adapt")),  # PatchInferer imports by name
    *(f"monai.transforms.utility.dictionary.{name}" for name in ("EnsureChannelFirstd", "EnsureTyped", "CastToTyped")),
    "pipeline.handlers.load_weights.LoadWeights",
    "pipeline.predict.FolderPredictor",
}
FUNCTIONS = {
    "torch.cuda.is_available",
    "torch.cuda.is_bf16_supported",
    "pipeline.bundle.check",
    "pipeline.bundle.config",
    "pipeline.bundle.root",
    "pipeline.inferers.sizes.beyond",
    "pipeline.inferers.sizes.check_sizes",
    "pipeline.networks.precision.fast_layout",
    "pipeline.predict.records",
    "pipeline.transforms.to_grid.described",
}
# Modules by which these are named too, and those of plain values: `monai.transforms.Compose`, `torch.float16`.
HOLDERS = {name.rpartition(".")[0] for name in SINGLE_CLASSES | FUNCTIONS}
HOLDERS |= {f"monai.{name}" for name in ("data", "engines", "inferers", "networks.blocks", "networks.layers")}
HOLDERS |= {"monai.networks.nets", "monai.transforms", "torch", "torch.nn", "numpy", "math"}
INNER = ("_", "test", "conftest")  # how parts begin that are no one else's business, and modules that run at import
UNKNOWN = "it is not among what is known to be harmless"
BUILTINS = {"abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "int", "len", "list", "map", "max"}
BUILTINS |= {"min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"}
METHODS = {"endswith", "get", "items", "join", "keys", "lower", "run", "split", "startswith", "to", "upper", "values"}
ATTRIBUTES = {"name", "transforms"}  # of a value: a method that is only named could be called by what it is given to
OPTIONS = {"default", "reverse", "start", "strict"}  # of builtins; the others are functions to call
VALUES = (bool, int, float, str, enum.Enum, torch.dtype, torch.memory_format)
FOLDER = "output_dir"  # an argument of components that write files: the user's, and no other
# Parts of an expression that compute and name, and cannot define anything.
HARMLESS = (
    *(ast.Expression, ast.Constant, ast.Load, ast.Store, ast.keyword, ast.Starred, ast.Slice, ast.Subscript),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set, ast.IfExp, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop),
    *(ast.Compare, ast.cmpop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue),
)
LOCALS = ReferenceResolver._vars  # what MONAI writes in place of a reference: `@x` becomes `__local_refs['x']`


def check_config(parser: ConfigParser, file: str | Path) -> None:
    """Refuse a config that would run anything which is not known to be harmless, and name every such entry.

    Allowed are classes of MONAI, torch and this package that a prediction is made of, the functions that its own
    bundles call, and expressions that only compute with these, in the very words that Python would be given. Nothing is
    imported that does not belong to these packages.

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
    entries, sizes = list(_entries(config)), Sizes(config, _tree, LOCALS)
    imports = [(path, value) for path, value in entries if isinstance(value, str) and _is_import(value)]
    names = {name: module.__name__ for name, module in parser.globals.items() if isinstance(module, ModuleType)}
    for path, value in imports:
        if reason := _import(value, names):
            yield path, value, reason
    for path, value in entries:
        if isinstance(value, Mapping):
            reason, shown = _component(value, parser.locator), str(value["_target_"])
        elif _is_import(value):
            continue
        elif value.startswith("%"):
            reason, shown = "a macro of a macro's file is not followed", value
        else:
            reason, shown = _text(value, [path.replace("#", "::") for path, _ in imports], names, sizes), value
        if reason:
            yield path, shown, reason


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
    elif isinstance(node, str) and node.startswith(("$", "@", "%")):
        yield path, node


def _component(component: Mapping[str, Any], locator: ComponentLocator) -> str | None:
    """Return why a component may not be built; None where it may."""
    target, mode = component["_target_"], component.get("_mode_", "default")
    if not isinstance(target, str) or target.startswith(("$", "@", "%")):
        return "its target is computed"
    if mode not in ("default", "callable"):
        return f"_mode_ is {mode!r}"
    if component.get("_debug_"):
        return "_debug_ would wait for a debugger"
    if component.get(FOLDER, f"@{FOLDER}") != f"@{FOLDER}":
        return f"{FOLDER} is not '@{FOLDER}', the folder that was asked for"
    found = None if "." in target else locator.get_component_module_name(target)
    module = found[0] if isinstance(found, list) else found
    name = f"{module}.{target}" if module else target
    return _named(name) if "." in name else "no component of MONAI has this name"


def _named(name: str) -> str | None:
    """Return why what a dotted name stands for may not be used: nothing is imported that its text does not allow."""
    module, _, last = name.rpartition(".")
    if not _is_within(name, MODULES):
        return "its package is none of " + ", ".join(MODULES)
    if any(part.startswith(INNER) for part in name.split(".")):
        return "it is an inner part"
    if module not in HOLDERS and not _is_within(module, CLASSES):
        return UNKNOWN
    try:
        return _object(name, vars(import_module(module)).get(last))
    except ModuleNotFoundError:
        return "there is no such thing"
    except Exception as error:
        return f"its module cannot be imported ({type(error).__name__}: {error})"


def _object(name: str, value: Any) -> str | None:
    """Return why an object of an allowed package may not be used."""
    if value is None:
        return "there is no such thing"
    own = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if any(part.startswith(INNER) for part in (*name.split("."), *own.split("."))):
        return "it is an inner part"
    if inspect.isclass(value) and (own in SINGLE_CLASSES or (_is_within(own, CLASSES) and NOT not in own)):
        return None
    if inspect.isroutine(value) and {name, own} & FUNCTIONS:
        return None
    return None if isinstance(value, VALUES) else UNKNOWN


def _is_within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_import(text: str) -> bool:
    return bool(re.match(r"\$\s*(import|from)\s", text))


def _import(text: str, names: dict[str, str]) -> str | None:
    """Note what an import names; return why it is not allowed. Nothing is imported."""
    try:
        (statement,) = ast.parse(text[1:].strip()).body
    except (SyntaxError, ValueError):
        return "it is no import"
    if not isinstance(statement, ast.Import) or len(statement.names) != 1:
        return "it is no import of one module"
    module, alias = statement.names[0].name, statement.names[0].asname
    if not _is_within(module, MODULES):
        return "its package is none of " + ", ".join(MODULES)
    if module not in IMPORTS:
        return f"'{module}' is none of the modules that an import may name"
    name = alias or module.split(".")[0]
    found = module if alias else name
    if name in BUILTINS | {LOCALS} or names.get(name, found) != found:
        return f"'{name}' means something else here"
    names[name] = found
    return None


def _text(text: str, imports: Sequence[str], names: Mapping[str, str], sizes: Sizes) -> str | None:
    """Return why a text that refers to other entries, or is computed, may not be; None where it may."""
    text = ReferenceResolver.normalize_id(text)
    references = [found[1:] for found in ReferenceResolver.id_matcher.findall(text)]
    for reference in references:
        # An import is a module, whose functions have any name; an id with an empty part is none of a config.
        inner = f"{reference}::"
        if not all(reference.split("::")) or any(f"{path}::".startswith(inner) for path in imports):
            return f"'@{reference}' is no value"
    return _expression(text, names, sizes) if text.startswith("$") else None


def _expression(text: str, names: Mapping[str, str], sizes: Sizes) -> str | None:
    """Return why an expression may not be evaluated; None where it may."""
    if LOCALS in text:
        return f"'{LOCALS}' is an inner part"
    try:
        tree = _tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is no expression"
    try:
        if (reason := _judged(tree, names)) is None:
            sizes.check(text)
        return reason
    except (TooLargeError, RecursionError) as error:
        return f"it is too large ({error})"


def _judged(tree: ast.Expression, names: Mapping[str, str]) -> str | None:
    if any(LOCALS in text for text in _texts(tree)):
        return "a text holds a reference, which would end it"
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if taken := sorted(bound & (names.keys() | BUILTINS | {LOCALS})):
        return f"'{taken[0]}' means something else here"
    return _node(tree, names, bound | {LOCALS})


def _tree(text: str) -> ast.Expression:
    """Return an expression's tree, with references as MONAI writes them: `@x` is `__local_refs['x']`."""
    text = ReferenceResolver.normalize_id(text)
    references = [found[1:] for found in ReferenceResolver.id_matcher.findall(text)]
    written = ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references, None))
    return ast.parse(written[1:].strip(), mode="eval")


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts in quotes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _node(node: ast.AST, names: Mapping[str, str], plain: set[str]) -> str | None:
    """Return why a part of an expression is not allowed.

    Args:
        node: the part.
        names: modules by the names that imports gave them.
        plain: names of values: of other entries, and what a comprehension runs over.
    """
    if isinstance(node, ast.Name):
        if node.id in plain or node.id in BUILTINS:
            return None
        return UNKNOWN if node.id in names else f"'{node.id}' is not known here"
    if isinstance(node, ast.Attribute):
        return _attribute(node, names, plain)
    if isinstance(node, ast.Call):
        return _call(node, names, plain)
    if not isinstance(node, HARMLESS):
        return f"a {type(node).__name__.lower()} can do anything"
    return _first(_node(child, names, plain) for child in ast.iter_child_nodes(node))


def _attribute(node: ast.Attribute, names: Mapping[str, str], plain: set[str]) -> str | None:
    """Judge what a module holds by what it is, and a part of a value by its name."""
    dotted = _dotted(node)
    if dotted is None or dotted[0] not in names:
        known = node.attr in ATTRIBUTES
        return (
            _node(node.value, names, plain) if known else f"'{node.attr}' is not among {', '.join(sorted(ATTRIBUTES))}"
        )
    return _named(".".join((names[dotted[0]], *dotted[1:])))


def _call(node: ast.Call, names: Mapping[str, str], plain: set[str]) -> str | None:
    function = node.func
    inner = [*node.args, *(keyword.value for keyword in node.keywords)]
    dotted = _dotted(function)
    if isinstance(function, ast.Attribute) and (dotted is None or dotted[0] not in names):
        if function.attr not in METHODS:
            return f"the method '{function.attr}' is not among {', '.join(sorted(METHODS))}"
        inner.append(function.value)
    elif dotted is None or dotted[0] in plain:
        return f"'{ast.unparse(function)}' may be anything"
    elif dotted[0] in BUILTINS and not _only_values(dotted[0], node):
        return f"'{dotted[0]}' would call what it is given"
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
