"""A volume larger than memory on the workers of a cluster: its parts are tasks, each in the memory of one worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipeline.batch.clock import Clock, forwards, stage
from pipeline.batch.stages import Outcome
from pipeline.cluster.recipe import Recipe, Result, turns_of
from pipeline.cluster.said import Line, kept, say
from pipeline.cluster.tasks import Ended, run_on
from pipeline.cluster.workforce import Workforce

if TYPE_CHECKING:
    from pipeline.batch.inputs import Input
    from pipeline.blockwise.large_case import LargeCase, Part

Seconds = Mapping[str, float]


def predict_large(workforce: Workforce, recipe: Recipe, entry: Input) -> Ended[Input]:
    """Let all workers predict one volume; return what became of it as `predict_case` would.

    One worker begins it and decides where it is cut, which the others read in the output folder; one ends it.
    """
    begun = _only(run_on(workforce, partial(begin, recipe), _each([entry])))
    if begun.error is not None:
        return begun
    parts, seconds, lines = begun.value
    say(lines)
    total = Counter(seconds)
    tasks = run_on(workforce, partial(predict_part, recipe, entry), _each(parts))
    for ended in tqdm(tasks, entry.case, total=len(parts), unit="part", leave=False, disable=None):
        if ended.error is not None:
            return Ended(entry, error=ended.error)
        total.update(ended.value)
    return _only(run_on(workforce, partial(finish, recipe, total), _each([entry])))


def _each(items: list[Any]) -> Callable[[], Any]:
    return partial(next, iter(items), None)


def _only(results: Iterator[Ended[Any]]) -> Ended[Any]:
    (ended,) = results
    return ended


def begin(recipe: Recipe, entry: Input) -> tuple[list[Part], Seconds, list[Line]]:
    """Run on a worker: measure a volume as a whole; return the parts that are to be predicted."""
    with kept() as lines, _opened(recipe, entry) as (case, clock):
        parts = case.parts()
    return parts, clock.seconds, lines


def predict_part(recipe: Recipe, entry: Input, part: Part) -> Seconds:
    """Run on a worker: predict a part that has been begun; return the seconds by stage."""
    with _opened(recipe, entry) as (case, clock):
        case.predict(part)
    return clock.seconds


def finish(recipe: Recipe, seconds: Seconds, entry: Input) -> Result:
    """Run on a worker: end a volume of which all parts are predicted, and record it."""
    work = turns_of(recipe).work
    outcome = Outcome(entry)
    outcome.clock.seconds.update(seconds)
    with kept() as lines:
        row = work.row(outcome.run(lambda _: _case(recipe, entry).finish() | work.execution))
    return row, outcome.clock.seconds, lines


_lock = threading.Lock()
_known: tuple[Recipe, Input, LargeCase] | None = None  # the last one, for a worker has many parts of a volume


def _case(recipe: Recipe, entry: Input) -> LargeCase:
    from pipeline.blockwise.large_case import LargeCase

    global _known
    with _lock:
        if _known is None or _known[:2] != (recipe, entry):
            work = turns_of(recipe).work
            work.completion.begin(entry)
            _known = recipe, entry, LargeCase(entry, work)
        return _known[2]


@contextmanager
def _opened(recipe: Recipe, entry: Input) -> Iterator[tuple[LargeCase, Clock]]:
    """Yield a volume, and a clock that runs."""
    case, clock = _case(recipe, entry), Clock()
    with clock.running(), stage("invert"), forwards(case.work.network, case.work.device):
        yield case, clock
