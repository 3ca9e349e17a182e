"""What the names of classes and channels tell: which classes have a side, and what was imaged."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = (  # words, by the patient's axis whose mirror image exchanges them
    {"left", "lt", "l", "right", "rt", "r"},
    {"anterior", "ant", "front", "ventral", "posterior", "post", "back", "dorsal"},
    {"superior", "upper", "top", "cranial", "inferior", "lower", "bottom", "caudal"},
)
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where a word begins in LeftKidney, LKidney
NO_CT = {"mr", "mri", "t1", "t1w", "t2", "t2w", "flair", "adc", "dwi", "pet", "us", "ultrasound"}


def sided_axes(classes: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Return the patient's axes whose mirror image would exchange classes, with these classes' names.

    A class has a side if its name has a word for it: "left lung", "kidney_r", "LKidney", "anterior".
    """
    found = {axis: tuple(name for name in classes if words & _words(name)) for axis, words in enumerate(SIDES)}
    return {axis: names for axis, names in found.items() if names}


def names_ct(channels: Sequence[str]) -> bool | None:
    """Return whether channels are CT by their names; None if these do not tell."""
    words = [_words(name) for name in channels]
    if all("ct" in found for found in words):
        return True
    return False if len(channels) > 1 or any(found & NO_CT for found in words) else None


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", HUMP.sub(" ", name).lower()))
