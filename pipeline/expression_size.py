"""How much the expressions of a config could compute at most: one line can ask for a list longer than any memory."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

MOST_WORK = 10_000_000  # parts of values that are made, by all expressions of a config: a second, 100 MB
MOST_NUMBER = 1e30  # of which no more comes by adding and multiplying
DIGITS = 34  # letters that a number, or a letter in quotes, has as a text
WIDE = re.compile(r"\d{3}")  # in "{x:>100}"
# Parts that pass on what others have made.
PASSED_ON = (ast.Expression, ast.Name, ast.Constant, ast.Subscript, ast.Attribute, ast.IfExp, ast.BoolOp, ast.Starred)
SCALARS = {"abs", "float", "int", "len", "round"}


class TooLargeError(ValueError):
    """An expression could take more time or memory than any config needs."""


class Size(NamedTuple):
    """Bounds of a value that is not known yet.

    Args:
        total: numbers, letters and sequences in it, at most.
        widest: of these in one element of it.
        number: the largest absolute value of a number in it, 1 or more.
    """

    total: float = 1
    widest: float = 1
    number: float = 1


class Sizes:
    """Bounds of what a config's expressions make, of which none is evaluated.

    A sequence is as long as what it is made of, `range(n)` has n elements, `x * n` is n times as long as x, and a
    comprehension makes its element once for each element of what it runs over.

    Args:
        config: all of it, with ids such as `train::crop_size`.
        parse: gives the tree of a text that begins with `$`, with references as `references['id']`.
        references: the name that these have in a tree.
    """

    def __init__(self, config: Any, parse: Callable[[str], ast.Expression], references: str) -> None:
        self._config, self._parse, self._references = config, parse, references
        self._known: dict[str, Size | None] = {}
        self._work = 0.0

    def check(self, text: str) -> None:
        """Count what an expression makes at most; too much, with those before it, is a TooLargeError."""
        self._text(text)

    def _text(self, text: str) -> Size:
        tree = self._parse(text)
        for node in ast.walk(tree):
            if (name := self._referred(node)) is not None:
                self._entry(name)  # once, however often it is used
        return self._size(tree, {})

    def _referred(self, node: ast.AST) -> str | None:
        match node:
            case ast.Subscript(ast.Name(name), ast.Constant(entry)) if name == self._references:
                return str(entry)
        return None

    def _found(self, name: str) -> Any:
        """The content of an entry, None where there is none."""
        found = self._config
        for part in name.split("::"):
            if isinstance(found, Mapping):
                found = found.get(part)
            elif isinstance(found, Sequence) and not isinstance(found, str) and part.isdecimal():
                found = found[int(part)] if int(part) < len(found) else None
            else:
                return None
        return found

    def _entry(self, name: str) -> Size:
        if name not in self._known:
            self._known[name] = None
            self._known[name] = self._content(self._found(name))
        if (known := self._known[name]) is None:
            raise TooLargeError("it refers to itself")
        return known

    def _content(self, content: Any) -> Size:
        if isinstance(content, str):
            if content.startswith("$"):
                return self._text(content)
            return self._entry(content[1:]) if content.startswith("@") else Size(1 + len(content))
        if isinstance(content, Mapping):
            return _together([*map(self._content, content.keys()), *map(self._content, content.values())])
        if isinstance(content, Sequence):
            return _together([self._content(part) for part in content])
        return _constant(content)

    def _size(self, node: ast.AST, names: Mapping[str, Size]) -> Size:
        size = self._made(node, names)
        if not isinstance(node, PASSED_ON):
            self._work += size.total
        if self._work > MOST_WORK or size.total > MOST_WORK:
            raise TooLargeError(f"it could make a value of more than {MOST_WORK:,} parts")
        return size

    def _made(self, node: ast.AST, names: Mapping[str, Size]) -> Size:
        if (name := self._referred(node)) is not None:
            return self._entry(name)
        if isinstance(node, ast.Constant):
            return _constant(node.value)
        if isinstance(node, ast.Expression):
            return self._size(node.body, names)
        if isinstance(node, ast.Name):
            return names.get(node.id, Size())
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            return self._comprehension(node, names)
        return self._of_parts(node, [self._size(child, names) for child in _children(node)])

    def _of_parts(self, node: ast.AST, parts: Sequence[Size]) -> Size:
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, *parts)
        if isinstance(node, ast.Call):
            return self._call(node, parts)
        if isinstance(node, ast.Subscript | ast.Attribute | ast.Starred | ast.UnaryOp):
            return parts[0]
        if isinstance(node, ast.FormattedValue):
            if node.format_spec is not None and not _is_narrow(node.format_spec):
                raise TooLargeError("it may make a text as wide as it says")
            return _as_text(parts[0])
        if isinstance(node, ast.IfExp | ast.BoolOp):
            return Size(*(max(bounds) for bounds in zip(*parts, strict=True)))
        if isinstance(node, ast.Compare):
            return Size(_together(parts).total)
        pairs = zip(_children(node), parts, strict=True)
        widest = (part.widest if isinstance(child, ast.Starred) else part.total for child, part in pairs)
        return _together(parts)._replace(widest=max(widest, default=1))

    def _comprehension(self, node: Any, names: Mapping[str, Size]) -> Size:
        times, before = 1.0, self._work
        for generator in node.generators:
            over = self._size(generator.iter, names)
            times *= over.total
            element = Size(over.widest, over.widest, over.number)
            bound = [part.id for part in ast.walk(generator.target) if isinstance(part, ast.Name)]
            names = {**names, **dict.fromkeys(bound, element)}
            for condition in generator.ifs:
                self._size(condition, names)
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        made = _together([self._size(value, names) for value in values])
        self._work = before + times * (self._work - before)
        return Size(times * made.total, made.total, made.number)

    def _arithmetic(self, node: ast.BinOp, left: Size, right: Size) -> Size:
        total, widest = left.total + right.total, max(left.widest, right.widest)
        if isinstance(node.op, ast.Div | ast.FloorDiv):
            return Size(total, widest, left.number / max(self._least(node.right), 1e-9))
        if isinstance(node.op, ast.Mod):
            if not self._is_number(node.left):
                raise TooLargeError("'%' may fill a text in, as wide as it says")
            return Size(total, widest, max(left.number, right.number))
        number = left.number * right.number if isinstance(node.op, ast.Mult) else left.number + right.number
        if isinstance(node.op, ast.Mult) and not (self._is_number(node.left) and self._is_number(node.right)):
            total = max(left.total * right.number, right.total * left.number)
        if number > MOST_NUMBER:
            raise TooLargeError("a number grows that large")
        return Size(total, widest, number)

    def _is_number(self, node: ast.AST) -> bool:
        """Whether a value is one number, and neither a text nor a sequence."""
        if (name := self._referred(node)) is not None:
            return isinstance(self._found(name), int | float)
        if isinstance(node, ast.BinOp):
            return self._is_number(node.left) and self._is_number(node.right)
        if isinstance(node, ast.UnaryOp):
            return self._is_number(node.operand)
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id in SCALARS
        return isinstance(node, ast.Constant) and isinstance(node.value, int | float)

    def _least(self, divisor: ast.AST) -> float:
        """How small a divisor can be."""
        name = self._referred(divisor)
        value = self._found(name) if name is not None else getattr(divisor, "value", 0)
        if isinstance(divisor, ast.Call):
            return float(isinstance(divisor.func, ast.Name) and divisor.func.id == "len")
        return min(abs(value), 1.0) if isinstance(value, int | float) else float(isinstance(value, str))

    def _call(self, node: ast.Call, parts: Sequence[Size]) -> Size:
        given, function = _together(parts), ast.unparse(node.func).rpartition(".")[2]
        first = parts[0] if parts else Size()
        if function == "range":
            numbers = sum(part.number for part in parts)
            return Size(1 + numbers, 1, numbers)
        if function in ("len", "bool", "all", "any"):
            return Size(1, 1, given.total)
        if function in ("int", "float"):  # "9" * 4000 is a number too
            return Size(1, 1, first.number if node.args and self._is_number(node.args[0]) else float("inf"))
        if function == "sum":  # of lists it makes every sum on the way
            return Size(given.total ** min(len(parts), 2), given.widest, given.total * given.number)
        if function == "str":
            return _as_text(given)
        if function == "map":
            if node.args and ast.unparse(node.args[0]) == "range":
                raise TooLargeError("it runs over ranges")
            return Size(DIGITS * given.total, DIGITS * given.widest, float("inf"))
        if function == "join":
            return Size(given.total + first.total * given.total)
        if isinstance(node.func, ast.Attribute):
            return Size(3 * given.total, 3 * given.total, given.number)
        return Size(2 * given.total, 1 + sum(part.widest for part in parts), max(2 * given.number, given.total))


def _children(node: ast.AST) -> list[ast.expr]:
    """The parts that are values; a function's name is none, and a format has a check of its own."""
    if isinstance(node, ast.Call):
        of_method = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        return [*of_method, *node.args, *(keyword.value for keyword in node.keywords)]
    if isinstance(node, ast.FormattedValue):
        return [node.value]
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _constant(value: Any) -> Size:
    if isinstance(value, str | bytes):
        return Size(1 + len(value))
    return Size(1, 1, max(1.0, min(abs(value), 1e300))) if isinstance(value, int | float) else Size()


def _is_narrow(format_spec: ast.expr) -> bool:
    """Whether a format is written out, and none of its numbers has three digits."""
    parts = format_spec.values if isinstance(format_spec, ast.JoinedStr) else []
    return all(isinstance(part, ast.Constant) and not WIDE.search(str(part.value)) for part in parts)


def _together(parts: Sequence[Size]) -> Size:
    """Of a sequence of these."""
    total = 1 + sum(part.total for part in parts)
    return Size(total, max((p.total for p in parts), default=1), max((p.number for p in parts), default=1))


def _as_text(size: Size) -> Size:
    return Size(DIGITS * size.total)
