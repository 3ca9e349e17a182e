"""Reading the next case and writing the last one while the network predicts: one case ahead, one behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")


@dataclass
class Outcome(Generic[Entry]):
    """What became of a case.

    Args:
        entry: the case.
        seconds: how long it took, by stage: "read", "predict", "write".
        result: what the last stage returned.
        error: what any of the stages raised; those after it were left out.
    """

    entry: Entry
    seconds: dict[str, float] = field(default_factory=dict)
    result: Any = None
    error: Exception | None = None

    def run(self, stage: str, work: Callable[[Any], Any]) -> Outcome[Entry]:
        """Let a stage work on what the one before it returned; keep its time and its error."""
        start = time.perf_counter()
        value, self.result = self.result, None  # so that nothing holds the large input beside the stage itself
        if self.error is None:
            try:
                self.result = work(value)
            except Exception as error:  # of one case, which must not stop the others
                self.error = error
            self.seconds[stage] = time.perf_counter() - start
        return self


def run_stages(
    entries: Sequence[Entry],
    read: Callable[[Entry], Any],
    predict: Callable[[Any], Any],
    write: Callable[[Any], Any],
    alone: Callable[[Entry], bool] = lambda entry: False,
) -> Iterator[Outcome[Entry]]:
    """Yield what became of each case, in order; at most three cases are in memory.

    Args:
        entries: the cases.
        read: from a case to an item, in a thread of its own.
        predict: from an item to an item, in the caller's thread.
        write: from an item to the result, in another thread.
        alone: tells a case that shall not be in memory together with another one.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:

        def start(entry: Entry) -> Future[Outcome[Entry]]:
            outcome = Outcome(entry, result=entry)
            return reader.submit(outcome.run, "read", read)

        reading, writing = None, None
        for number, entry in enumerate(entries):
            solitary = alone(entry)
            if writing is not None and solitary:
                yield writing.result()
                writing = None
            outcome = (reading or start(entry)).result()
            reading = None
            if number + 1 < len(entries) and not solitary and not alone(entries[number + 1]):
                reading = start(entries[number + 1])
            try:
                outcome.run("predict", predict)
            except KeyboardInterrupt:
                if writing is not None:  # which is done all the same
                    yield writing.result()
                raise
            if writing is not None:
                yield writing.result()
            writing = writer.submit(outcome.run, "write", write)
            if solitary:
                yield writing.result()
                writing = None
        if writing is not None:
            yield writing.result()
