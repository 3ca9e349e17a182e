"""A data list's JSON against the schema and against itself: all that is wrong, and what is understood all the same."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

from pipeline.errors import InputError

WORDS = ("name", "description", "licence", "source", "made_by")  # nothing that a file is read by
UNKNOWN = "unknown"


# JSON takes 2.0 for an integer, Python's indices do not.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)


class Understood(NamedTuple):
    """What is wrong, and the part of the document that is a valid list with ids of its own; None where none is."""

    document: dict[str, Any] | None
    problems: list[InputError]


def understand(document: Any, file: str | PathLike[str] | None = None) -> Understood:
    """Check the content of a data list; keys that no list has are left out, and so are cases beyond understanding.

    Args:
        document: the content, as `json.loads` gives it.
        file: where it came from, for the error messages.
    """
    violations = sorted(_validator().iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    listed = document.get("cases") if isinstance(document, dict) else None
    entries: Sequence[Any] = listed if isinstance(listed, list) else []
    problems = [_describe(violation, entries, file) for violation in violations]
    if not isinstance(document, dict):
        return Understood(None, problems)
    cases = {place: known for place, entry in enumerate(entries) if (known := _without_strange_keys(entry))}
    problems += _contradictions(cases, document.get("channels"), file)
    known = _schema()["properties"]
    rest = {key: value for key, value in document.items() if key in known}
    if any(list(violation.absolute_path)[:1] == ["generator"] for violation in violations):
        del rest["generator"]
    words = {key: rest[key] if rest.get(key) and isinstance(rest[key], str) else UNKNOWN for key in WORDS}
    once: dict[str, dict[str, Any]] = {}
    for case in cases.values():
        once.setdefault(case["id"], case)
    rest |= ({} if not violations else words) | {"cases": list(once.values())}
    return Understood(rest if _validator().is_valid(rest) else None, problems)


@cache
def _schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return _Validator(_schema())


@cache
def _case_validator() -> jsonschema.Draft202012Validator:
    return _Validator({"$ref": "#/$defs/case", "$defs": _schema()["$defs"]})


def _without_strange_keys(entry: Any) -> dict[str, Any] | None:
    """A case's known keys where they make a case."""
    if not isinstance(entry, dict):
        return None
    known = {key: value for key, value in entry.items() if key in _schema()["$defs"]["case"]["properties"]}
    return known if _case_validator().is_valid(known) else None


def _describe(
    violation: jsonschema.ValidationError, entries: Sequence[Any], file: str | PathLike[str] | None
) -> InputError:
    """A violation in the reader's words; the schema's own descriptions are the remedies."""
    schema, value = violation.schema, violation.instance
    assert isinstance(schema, Mapping)
    if violation.validator == "oneOf":
        reason = "a case has exactly one of 'fold' and 'split'"
    elif violation.validator == "pattern":
        reason = f"{value!r} is not a {schema['title']}"
    elif violation.validator == "type":
        reason = f"{json.dumps(value)[:80]} is not of type {violation.validator_value}"
    else:
        reason = violation.message[-200:]
    path = list(violation.absolute_path)
    entry = entries[int(path[1])] if path[:1] == ["cases"] and len(path) > 1 else None
    case = entry.get("id") if isinstance(entry, dict) else None
    return InputError(
        f"{violation.json_path}: {reason}",
        case=case if isinstance(case, str) else None,
        file=file,
        remedy=schema.get("description"),
    )


def _contradictions(
    entries: Mapping[int, Mapping[str, Any]], channels: Any, file: str | PathLike[str] | None
) -> list[InputError]:
    """What the schema cannot say: ids and files once each, groups undivided, a file for each channel."""
    problems: list[InputError] = []
    named: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for index, entry in entries.items():
        images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
        if isinstance(entry["image"], list) and isinstance(channels, list) and len(images) != len(channels):
            text = f"$.cases[{index}].image: {len(images)} files for {len(channels)} channels"
            problems.append(InputError(text, case=entry["id"], file=file, remedy="name one file for each channel"))
        names = [("id", entry["id"]), *(("image", image) for image in images)]
        names += [(key, entry[key]) for key in ("label", "group") if key in entry]
        for name in names:
            named[name].append((index, entry.get("split") or f"fold {entry['fold']}"))
    for (kind, value), uses in named.items():
        where = ", ".join(f"$.cases[{index}]" + (f" ({place})" if kind == "group" else "") for index, place in uses)
        if kind == "group" and len({place for _, place in uses}) > 1:
            text, remedy = f"group '{value}' is divided", "give all cases of a group the same fold or split"
        elif kind != "group" and len(uses) > 1:
            text, remedy = f"{kind} '{value}' occurs {len(uses)} times", f"give each case its own {kind}"
        else:
            continue
        last = entries[uses[-1][0]]["id"]
        problems.append(InputError(f"{text}: {where}", case=last, file=file, remedy=remedy))
    return problems
