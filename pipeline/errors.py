"""Errors that a user can mend: each names the case, the file, the reason and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from os import PathLike

# What moves a terminal's cursor, renames its window or turns the order of letters; half a surrogate is left as it is.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CONTROL_BUT_LINES = re.compile(f"(?![\\n\\t]){CONTROL.pattern}")

FORMULA = ("=", "+", "-", "@", "\t", "\n")  # how a text begins that a spreadsheet computes
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


class InputError(ValueError):
    """A problem in what the user gave, written so that one line is enough to mend it.

    Args:
        reason: what is wrong, as a statement of fact ("label value 7 is not one of the classes 0..1").
        case: id of the case in the data list, or the folder's name for one without.
        file: the file or config key that holds the problem.
        remedy: what to do, as an imperative.
    """

    def __init__(
        self,
        reason: str,
        *,
        case: str | None = None,
        file: str | PathLike[str] | None = None,
        remedy: str | None = None,
    ) -> None:
        self.reason, self.case, self.remedy = reason, case, remedy
        self.file = None if file is None else str(file)
        where = [f"case '{visible(case)}'"] if case is not None else []
        where += [f"file '{visible(file)}'"] if file is not None else []
        text = ", ".join(where) + (": " if where else "") + reason
        super().__init__(visible(text + (f". Remedy: {remedy}" if remedy else ""), lines=True))

    def __reduce__(self) -> tuple[object, ...]:
        # A loader's worker sends its error to the parent by pickle, which knows positional arguments only.
        return _rebuild, (self.reason, self.case, self.file, self.remedy)


def _rebuild(reason: str, case: str | None, file: str | None, remedy: str | None) -> InputError:
    return InputError(reason, case=case, file=file, remedy=remedy)


def visible(text: object, lines: bool = False) -> str:
    r"""Return a text with its control characters in words, such as `\x1b`: a file's name can hold any of them.

    Args:
        text: a name, or whatever has one in it.
        lines: leave the ends of lines and tabs as they are, as in a message of several lines.
    """
    return (CONTROL_BUT_LINES if lines else CONTROL).sub(_in_words, str(text))


def plain_cell(text: str) -> str:
    """Return a text for a CSV file that people open: behind an apostrophe where a spreadsheet would compute it.

    "=HYPERLINK(1)" becomes "'=HYPERLINK(1)"; "-1.5" is a number and stays one. Control characters are in words.
    """
    text = visible(text, lines=True)
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def _in_words(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def raise_all(problems: Sequence[InputError], title: str) -> None:
    """Raise nothing for no problem, the problem for one, and a numbered list of all for several."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
    raise InputError(f"{title}: {len(problems)} problems\n{lines}")


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the user's problem behind an error, if there is one: MONAI wraps what a config raises, once per level."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the remedy for a mistyped word: the nearest known one, or all of them."""
    known = [str(name) for name in known]
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else "known here: " + ", ".join(known)
