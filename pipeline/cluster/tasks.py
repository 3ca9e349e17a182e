"""Tasks for the workers of a cluster: few at a time, again elsewhere where a worker dies, given up in the end."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.cluster.workforce import ANSWERS_WITHIN, Event, Worker, Workforce
from pipeline.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

TRIES = 3  # workers that may die with a task before it is given up
LEFT_TOO_OFTEN = 10  # workers that may leave in good order, as at the end of a job's time
Item = TypeVar("Item")


class WorkerDiedError(InputError):
    """A task is given up, for its worker died each time."""


@dataclass(frozen=True)
class Ended(Generic[Item]):
    """What became of an item: the value of the function, or why there is none."""

    item: Item
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class _Task(Generic[Item]):
    item: Item
    deaths: int = 0
    departures: int = 0
    worker: Worker | None = None
    future: Future | None = None


def run_tasks(
    client: Client,
    function: Callable[[Item], Any],
    items: Iterable[Item],
    at_once: int = 1,
    tries: int = TRIES,
    introduce: Callable[[], Any] | None = None,
) -> Iterator[Ended[Item]]:
    """Yield what a function makes of each item on the workers of a client, in the order in which they end.

    Items are taken as workers come free, so that any number of them costs no memory, here or in the scheduler. What
    a worker had when it died is done again elsewhere, with nothing beside it, so that the next death has one cause
    only; it is given up after exactly `tries` deaths. An error that the function raises is not tried again.

    Args:
        client: of Dask; it is asked for nothing that depends on the scheduler's settings.
        function: what a worker does with an item, such as a module's function or a `partial` of one. It may run again.
        items: what can be pickled, small: paths rather than voxels.
        at_once: items of each worker, in threads beside each other.
        tries: deaths of its worker after which an item is given up.
        introduce: run on each worker first; see `Workforce`.
    """
    iterator = iter(items)
    with Workforce(client, introduce) as workforce:
        yield from run_on(workforce, function, partial(next, iterator, None), at_once, tries)


def run_on(
    workforce: Workforce,
    function: Callable[[Item], Any],
    take: Callable[[], Item | None],
    at_once: int = 1,
    tries: int = TRIES,
    hear: Callable[[Any], None] = lambda message: None,
) -> Iterator[Ended[Item]]:
    """Yield what a function makes of items on a workforce, as `run_tasks` does.

    Args:
        workforce: whose workers are used.
        function: what a worker does with an item.
        take: the next item; None where there is none now. It ends where there is none and nothing is being done.
        at_once: items of each worker.
        tries: deaths of its worker after which an item is given up.
        hear: called here with what tasks say, within `workforce.hearing(topic)`.
    """
    return _Run(workforce, function, take, at_once, tries, hear).results()


class _Run(Generic[Item]):
    def __init__(
        self,
        workforce: Workforce,
        function: Callable[[Item], Any],
        take: Callable[[], Item | None],
        at_once: int,
        tries: int,
        hear: Callable[[Any], None],
    ) -> None:
        self.workforce, self.function, self.take, self.hear = workforce, function, take, hear
        self.at_once, self.tries = at_once, tries
        self.given: dict[str, _Task[Item]] = {}  # to workers, by key
        self.again: deque[_Task[Item]] = deque()
        self.suspects: deque[_Task[Item]] = deque()  # one of them may have killed a worker

    def results(self) -> Iterator[Ended[Item]]:
        try:
            while True:
                self._hand_out()
                if not (self.given or self.again or self.suspects):
                    first = self._next()  # it may be there before any worker
                    if first is None:
                        return
                    self.again.append(first)
                yield from self._after(self.workforce.wait())
        finally:
            self._cancel()

    def _next(self) -> _Task[Item] | None:
        if self.again:
            return self.again.popleft()
        item = self.take()
        return None if item is None else _Task(item)

    def _hand_out(self) -> None:
        """Give suspects to workers that have nothing else, for which the least busy are kept; the rest to the rest."""
        free = [worker for worker in self.workforce.workers.values() if not worker.is_alone]
        free.sort(key=lambda worker: len(worker.tasks))
        kept = len(self.suspects)
        for worker in free[:kept]:
            if not worker.tasks:
                worker.is_alone = True
                self._give(self.suspects.popleft(), worker)
        for load in range(self.at_once):  # evenly, to the last item
            for worker in free[kept:]:
                if len(worker.tasks) == load:
                    task = self._next()
                    if task is None:
                        return
                    self._give(task, worker)

    def _give(self, task: _Task[Item], worker: Worker) -> None:
        key = f"{getattr(self.function, '__name__', 'task')}-{uuid.uuid4().hex}"
        task.worker = worker
        task.future = self.workforce.client.submit(
            _call,
            self.function,
            task.item,
            self.at_once > 1,
            key=key,
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
        )
        self.given[key] = worker.tasks[key] = task
        self.workforce.notify(task.future)

    def _after(self, event: Event | None) -> Iterator[Ended[Item]]:
        if event is None:
            return
        if event.kind == "said":
            self.hear(event.what)
        elif event.kind == "done":
            if (task := self._taken_back(event.what.key)) is not None:
                yield from self._ended(task, event.what)
        else:
            worker: Worker = event.what
            what = "died" if event.kind == "died" else "has left"
            logger.warning("the worker at %s %s; it had %d tasks", worker.address, what, len(worker.tasks))
            for key in list(worker.tasks):
                if (task := self._taken_back(key)) is not None:
                    yield from self._died(task) if event.kind == "died" else self._left(task)

    def _taken_back(self, key: str) -> _Task[Item] | None:
        task = self.given.pop(key, None)
        if task is not None:
            assert task.worker is not None
            del task.worker.tasks[key]
            task.worker.is_alone = False
        return task

    def _ended(self, task: _Task[Item], future: Future) -> Iterator[Ended[Item]]:
        try:
            value = future.result(timeout=ANSWERS_WITHIN)
        except Exception as error:
            kind = type(error).__name__
            if kind == "KilledWorker":
                yield from self._died(task)
            elif kind in ("CancelledError", "FutureCancelledError", "TimeoutError") and future.status != "error":
                yield from self._left(task)  # its worker went with the result
            else:
                yield Ended(task.item, error=error)
        else:
            yield Ended(task.item, value)

    def _died(self, task: _Task[Item]) -> Iterator[Ended[Item]]:
        self._release(task)
        task.deaths += 1
        if task.deaths < self.tries:
            self.suspects.append(task)
            return
        times = "once" if task.deaths == 1 else f"{task.deaths} times"
        reason, remedy = f"killed its worker {times}, mostly for lack of memory", "give the workers more memory"
        yield Ended(task.item, error=WorkerDiedError(reason, remedy=remedy))

    def _left(self, task: _Task[Item]) -> Iterator[Ended[Item]]:
        self._release(task)
        task.departures += 1
        if task.departures < LEFT_TOO_OFTEN:
            self.again.append(task)
            return
        reason = f"{task.departures} workers have left before it was done"
        yield Ended(task.item, error=WorkerDiedError(reason, remedy="give the workers more time"))

    def _release(self, task: _Task[Item]) -> None:
        """Let the scheduler forget a task, or it would give it to a worker that comes to the same address."""
        if task.future is not None:
            self.workforce.client.cancel([task.future])
            task.future = None

    def _cancel(self) -> None:
        futures = [task.future for task in self.given.values() if task.future is not None]
        for key in list(self.given):
            self._taken_back(key)
        if futures and self.workforce.client.status == "running":
            self.workforce.client.cancel(futures)


def _call(function: Callable[[Any], Any], item: Any, has_others_beside: bool) -> Any:
    """Run on a worker; one that does several at once need not have been started with as many threads."""
    if has_others_beside:
        from distributed import secede

        secede()
    return function(item)


def is_still_wanted() -> Callable[[], bool]:
    """Return, in a task, a function for any thread that tells whether a client still waits for this task's result."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return wanted
