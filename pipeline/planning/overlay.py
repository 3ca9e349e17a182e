"""A plan as an overlay: YAML in which every setting has its reason above it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import yaml

from pipeline.planning.rules import Choice

WIDTH = 118


def write_overlay(title: Sequence[str], sections: Mapping[str, Sequence[Choice]]) -> str:
    """Return the text of an overlay.

    Args:
        title: what is said first, line by line.
        sections: choices by their heading.
    """
    lines = [f"# {line}" for line in title]
    for heading, choices in sections.items():
        if choices:
            lines += ["", f"# == {heading} =="]
        for choice in choices:
            lines += [*_comment(choice.why), _setting(choice)]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _setting(choice: Choice) -> str:
    flow = not isinstance(choice.value, Mapping)
    nested = not flow and any(isinstance(value, list | Mapping) for value in choice.value.values())
    style = None if nested else flow  # None: what is innermost on one line
    text = yaml.safe_dump(choice.value, default_flow_style=style, sort_keys=False, width=10**6)
    value = text.removesuffix("\n").removesuffix("\n...")
    return f"{choice.key}: {value}" if flow else f"{choice.key}:\n{textwrap.indent(value, '  ')}"
