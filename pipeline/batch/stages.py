"""Reading the next case and writing the last one while the network predicts: one case ahead, one behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from pipeline.batch.clock import Clock

Entry = TypeVar("Entry")
Record = TypeVar("Record")


@dataclass
class Outcome(Generic[Entry]):
    """What became of a case.

    Args:
        entry: the case.
        clock: how long it took, by stage.
        result: what the last stage returned.
        error: what any of the stages raised; those after it were left out.
    """

    entry: Entry
    clock: Clock = field(default_factory=Clock)
    result: Any = None
    error: Exception | None = None

    def run(self, work: Callable[[Any], Any]) -> Outcome[Entry]:
        """Let one work on what the one before it returned, while the clock runs; keep its error."""
        value, self.result = self.result, None  # so that nothing holds the large input beside the work itself
        if self.error is None:
            try:
                with self.clock.running():
                    self.result = work(value)
            except Exception as error:  # of one case, which must not stop the others
                self.error = error
        return self


def run_stages(
    entries: Sequence[Entry],
    read: Callable[[Entry], Any],
    predict: Callable[[Any], Any],
    write: Callable[[Any], Any],
    record: Callable[[Outcome[Entry]], Record],
    alone: Callable[[Entry], bool] = lambda entry: False,
) -> Iterator[Record]:
    """Yield what `record` says of each case, in order; at most three cases are in memory.

    Reading and writing compute on one thread each: more would take the processors from the network.

    Args:
        entries: the cases.
        read: from a case to an item, in a thread of its own.
        predict: from an item to an item, in the caller's thread.
        write: from an item to the result, in another thread.
        record: called there with what became of the case.
        alone: tells a case that shall not be in memory together with another one.
    """
    with _worker("read") as reader, _worker("write") as writer:

        def start(entry: Entry) -> Future[Outcome[Entry]]:
            outcome = Outcome(entry, result=entry)
            return reader.submit(outcome.run, read)

        def end(outcome: Outcome[Entry]) -> Record:
            return record(outcome.run(write))

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
                outcome.run(predict)
            except (KeyboardInterrupt, SystemExit):
                if writing is not None:  # which is done all the same
                    yield writing.result()
                raise
            if writing is not None:
                yield writing.result()
            writing = writer.submit(end, outcome)
            if solitary or number + 1 == len(entries):
                yield writing.result()
                writing = None


def _worker(name: str) -> ThreadPoolExecutor:
    """Return a thread in which torch computes on one thread."""
    threads = torch.get_num_threads()
    worker = ThreadPoolExecutor(1, name)
    worker.submit(_use_one_thread).result()
    torch.set_num_threads(threads)  # what a thread sets holds for itself, and for those that are yet to come
    return worker


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first question of a thread sets its number to that of all
    torch.set_num_threads(1)
