"""The workers of a cluster, as they come and go: each is looked at before it is given anything."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError, find_input_error

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

LOOKS_FOR = 10.0  # seconds that a scheduler has for its answer
LOOK_EVERY = 2.0  # seconds between two looks at who is there, beside what the scheduler tells
SAY_AFTER = 5.0  # seconds without a worker until that is said, and
SAY_AGAIN = 60.0  # until it is said again
WITHIN = "PIPELINE_WORKERS_WITHIN"  # environment: seconds without a worker until that is an error
ANSWERS_WITHIN = 30.0  # seconds for a worker that is there to send a result
KILLED_TOO_OFTEN = 3  # workers in a row that died while they were looked at


@dataclass(eq=False)
class Worker:
    """A worker that may be used.

    Args:
        address: by which the scheduler knows it.
        facts: what its introduction returned.
        tasks: what it has been given and not given back, by key.
        is_alone: it does one that must have no other beside it.
    """

    address: str
    facts: Any = None
    tasks: dict[str, Any] = field(default_factory=dict)
    is_alone: bool = False


class Event(NamedTuple):
    """What has happened: a future is "done", a worker has "died" or "left", or a task has "said" something."""

    kind: str
    what: Any


class Workforce:
    """The workers of a client that may be used.

    Each that comes runs `introduce` once. One that raises an error there, or of whose facts `judge` does, is not used,
    which is said once. Where none is left that may be, that is an error; where there is none at all, it is waited for.

    Args:
        client: of Dask.
        introduce: run on each worker; returns facts about it.
        judge: takes these facts and the first worker's; raises an `InputError` for what cannot be used.
        patience: seconds to wait while there is no worker; None for ever. `PIPELINE_WORKERS_WITHIN` overrides it.
    """

    def __init__(
        self,
        client: Client,
        introduce: Callable[[], Any] | None = None,
        judge: Callable[[Any, Any], None] | None = None,
        patience: float | None = None,
    ) -> None:
        self.client, self.introduce, self.judge = client, introduce, judge
        self.address = client.scheduler.address
        given = os.environ.get(WITHIN)
        self.patience = float(given) if given else patience
        self.workers: dict[str, Worker] = {}
        self.inbox: SimpleQueue[Event] = SimpleQueue()
        self._introduced: dict[str, Future] = {}  # by address, until it has come to an end
        self._refused: dict[str, InputError] = {}
        self._missing: set[str] = set()  # at the last look
        self._told: set[str] = set()
        self._in_vain = 0
        self._looked, self._idle_since, self._said = 0.0, time.monotonic(), 0.0
        client.subscribe_topic("all", lambda event: self.inbox.put(Event("scheduler", event[1])))

    def __enter__(self) -> Workforce:
        return self

    def __exit__(self, *error: object) -> None:
        if self.client.status == "running":
            self.client.unsubscribe_topic("all")

    def first(self) -> Any:
        """Wait for the first worker that may be used; return its facts."""
        while not self.workers:
            self.wait()
        return next(iter(self.workers.values())).facts

    def wait(self) -> Event | None:
        """Wait a moment; return what has happened, if that concerns the tasks."""
        known = len(self.workers)
        self._look()
        try:
            event = self.inbox.get(timeout=LOOK_EVERY if len(self.workers) == known else 0)
        except Empty:
            return None
        if event.kind == "introduced":
            self._end_introduction(event.what)
        elif event.kind == "scheduler":
            return self._heard(event.what)
        else:
            return event
        return None

    def notify(self, future: Future) -> None:
        """Let `wait` return a future when it is done."""
        future.add_done_callback(lambda done: self.inbox.put(Event("done", done)))

    @contextmanager
    def hearing(self, topic: str) -> Iterator[None]:
        """Let `wait` return what tasks say by `worker.log_event(topic, ...)` in this block."""
        self.client.subscribe_topic(topic, lambda event: self.inbox.put(Event("said", event[1])))
        try:
            yield
        finally:
            if self.client.status == "running":
                self.client.unsubscribe_topic(topic)

    def _look(self) -> None:
        """Compare who is known with who is there, now and then, for a word of the scheduler may be lost."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            present = self._present()
            if self.client.status in ("closing", "closed"):
                raise self._lost()
            for address in present or ():
                self._come(address)
            known = self.workers.keys() | self._introduced.keys() | self._refused.keys()
            missing = known - (known if present is None else present)
            # One that the scheduler has not told of may have left in good order: nothing is held against its tasks.
            for address in missing & self._missing:
                self.inbox.put(Event("scheduler", {"action": "remove-worker", "worker": address, "expected": True}))
            self._missing = missing
        self._complain(now)

    def _present(self) -> set[str] | None:
        """Ask the scheduler itself for its workers; None where it has no time to answer.

        `Client.scheduler_info` returns what some periodic call has asked for last, which may have been nothing.
        """
        try:
            found = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=LOOKS_FOR)
            return set(found["workers"])
        except TimeoutError:
            return None
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise self._lost() from error

    def _lost(self) -> InputError:
        remedy = "start it again, and then this command with --resume, if it has that"
        return InputError(f"the scheduler at {self.address} is gone", remedy=remedy)

    def _heard(self, message: dict[str, Any]) -> Event | None:
        address = message.get("worker", "")
        if message.get("action") == "add-worker":
            self._come(address)
        elif message.get("action") == "remove-worker":
            is_expected = bool(message.get("expected"))
            if self._introduced.pop(address, None) is not None and not is_expected:
                self._died_in_vain()
            self._refused.pop(address, None)
            if (worker := self.workers.pop(address, None)) is not None:
                self._idle_since = time.monotonic()
                return Event("left" if is_expected else "died", worker)
        return None

    def _come(self, address: str) -> None:
        if address in self.workers or address in self._introduced or address in self._refused:
            return
        if self.introduce is None:
            self.workers[address] = Worker(address)
            return
        future = self.client.submit(self.introduce, workers=[address], allow_other_workers=False, pure=False)
        self._introduced[address] = future
        future.add_done_callback(lambda done: self.inbox.put(Event("introduced", (address, done))))

    def _end_introduction(self, what: tuple[str, Future]) -> None:
        address, future = what
        if self._introduced.get(address) is not future:
            return  # it has gone meanwhile
        try:
            facts = future.result(timeout=ANSWERS_WITHIN)
            if self.judge is not None:
                others = next(iter(self.workers.values()), None)
                self.judge(facts, facts if others is None else others.facts)
        except Exception as error:
            if type(error).__name__ in ("KilledWorker", "CancelledError", "FutureCancelledError", "TimeoutError"):
                return  # of which the scheduler tells too
            self._refuse(address, error)
        else:
            self.workers[address] = Worker(address, facts)
            self._in_vain = 0
        del self._introduced[address]

    def _refuse(self, address: str, error: Exception) -> None:
        problem = find_input_error(error)
        if problem is None:
            reason = f"this package does not run there ({type(error).__name__}: {error})"
            problem = InputError(reason, remedy="install the same environment for the workers as here")
        host = address.rpartition(":")[0]
        self._refused[address] = refusal = InputError(
            f"the workers at {host} cannot be used: {problem.reason}", file=problem.file, remedy=problem.remedy
        )
        if str(refusal) not in self._told:
            self._told.add(str(refusal))
            logger.warning("%s", refusal)
        if not self.workers and not self._introduced.keys() - {address}:
            raise refusal

    def _died_in_vain(self) -> None:
        self._in_vain += 1
        if self._in_vain == KILLED_TOO_OFTEN:
            raise InputError(
                f"{KILLED_TOO_OFTEN} workers in a row were killed before they came to a first task",
                remedy="mostly memory is short: give fewer workers, or more memory to each",
            )

    def _complain(self, now: float) -> None:
        """Say that there is no worker, and give up after the patience."""
        if self.workers or self._introduced:
            self._idle_since, self._said = now, 0.0
            return
        idle = now - self._idle_since
        if idle > SAY_AFTER and now - self._said > SAY_AGAIN:
            self._said = now
            logger.warning("there is no worker at %s: waiting for some to come", self.address)
        if self.patience is not None and idle > self.patience:
            reason = f"no worker has come to {self.address} in {idle:.0f} s"
            raise InputError(reason, remedy=f"start workers, or wait longer: {WITHIN} in the environment, in seconds")
