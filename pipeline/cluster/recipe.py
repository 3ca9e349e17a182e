"""What a worker does: look at what it sees, load the network once, do cases. It is light until it has begun."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster.said import Line, kept
from pipeline.cluster.sameness import World
from pipeline.cluster.tasks import is_still_wanted
from pipeline.errors import InputError, visible
from pipeline.heap import use_large_pages

if TYPE_CHECKING:
    from pipeline.batch.inputs import Input
    from pipeline.batch.turns import Turns

Result = tuple[dict[str, Any], Mapping[str, float], list[Line]]


@dataclass(frozen=True)
class Recipe:
    """How a worker makes the same predictor as the client.

    Args:
        files: the inference config and overlays, absolute.
        overrides: settings of the config; paths among them absolute.
        trust: run whatever the config says; else the worker checks it again.
        folder: where relative paths of the config begin.
        world: what has to be the same there.
        settings: digest of what decides on the results.
    """

    files: tuple[str, ...]
    overrides: Mapping[str, Any]
    trust: bool
    folder: str
    world: World
    settings: str

    def open(self) -> Turns:
        """Load the network, as the client would."""
        from pipeline.quick_import import import_monai

        import_monai()  # before anything else imports it as a whole
        from pipeline.batch.completion import digest_of
        from pipeline.batch.turns import Turns
        from pipeline.inference import predictor_of

        logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns of logging_file=False
        with _working_in(self.folder):
            predictor = predictor_of(self.files, self.trust, {**self.overrides, "logging_file": False})
            if digest_of(predictor.settings) != self.settings:
                raise InputError("its settings come to something else there", file=self.files[0])
            return Turns(predictor.work())


def introduce(recipe: Recipe) -> dict[str, Any]:
    """Run on a worker before all else: look whether it sees what the client sees, and load the network."""
    use_large_pages()
    with kept() as lines:
        recipe.world.check()
        return {"execution": turns_of(recipe).work.execution, "lines": lines}


def predict_case(recipe: Recipe, entry: Input) -> Result:
    """Run on a worker: do all of a case; return its row, its seconds by stage, and what was logged."""
    is_wanted = is_still_wanted()
    with kept() as lines:
        result = turns_of(recipe).whole(entry, is_wanted)
    if result is None:
        raise RuntimeError(f"case '{visible(entry.case)}' was not begun: nobody waits for it any more")
    return *result, lines


_lock = threading.Lock()
_opened: tuple[Recipe, Turns] | None = None  # the last one: a worker need not hold the networks of earlier batches


def turns_of(recipe: Recipe) -> Turns:
    """Return what this worker does cases with; the network is loaded once."""
    global _opened
    with _lock:
        if _opened is None or _opened[0] != recipe:
            _opened = None
            _opened = (recipe, recipe.open())
        return _opened[1]


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    """Let relative paths begin in a folder, if this machine has it."""
    before = os.getcwd()
    if Path(folder).is_dir():
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
