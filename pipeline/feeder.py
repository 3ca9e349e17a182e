"""The thread through which everything goes to a tracking store, so that training waits for no database or server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from mlflow.exceptions import MlflowException

from pipeline.journal import Entry, Journal
from pipeline.mlflow_store import first_line

logger = logging.getLogger(__name__)

BATCH = 500  # entries of metrics that are written together
LATER = {401, 403, 404, 408, 409, 429}  # refusals that say more of the server than of what it was sent
Write = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


class Feeder:
    """Keep entries in a journal, and write them to a store in their order; what it cannot take now waits.

    Args:
        journal: holds what waits, also what an earlier process has left in it.
        write: does one entry in the store, or several of metrics; returns facts for the journal to note.
        answers: whether the store can be reached at all, asked before each new attempt.
        every: seconds that metrics are gathered for, and between two attempts.
    """

    def __init__(
        self, journal: Journal, write: Write, answers: Callable[[], bool] = lambda: True, every: float = 1.0
    ) -> None:
        self._journal, self._write, self._answers, self._every = journal, write, answers, every
        self._flushes = self._done = 0
        self._unkept: list[Entry] = []  # what came last, and the journal's disk has no room for
        self._failing = self._closing = self._given_up = self._is_short_of_room = False
        self.reason = ""  # why the store failed last
        self._changed, self._ended = threading.Condition(), threading.Event()
        threading.Thread(target=self._feed, name="mlflow-feeder", daemon=True).start()

    def put(self, content: Mapping[str, Any]) -> None:
        """Do an entry when its turn comes; from now on no kill can lose it, unless the journal's disk is full."""
        with self._changed:
            if self._unkept or not self._keep(content):
                self._unkept.append(Entry(-1, dict(content)))
            if self._waiting in (1, BATCH):
                self._changed.notify_all()

    def _keep(self, content: Mapping[str, Any]) -> bool:
        """Put an entry into the journal; return whether there was room for it."""
        try:
            self._journal.append(content)
        except OSError as error:
            if not self._is_short_of_room:
                logger.warning("what is logged for MLflow is in memory alone, for its journal takes no more: %s", error)
            self._is_short_of_room = True
            return False
        return True

    @property
    def _waiting(self) -> int:
        return self._journal.count + len(self._unkept)

    def flush(self, timeout: float | None) -> bool:
        """Wait until what came so far is written; return whether it is. Waits for a store that has failed no more."""
        with self._changed:
            end = self._done + self._waiting
            if self._failing:
                return False
            self._flushes += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= end or self._failing, timeout)
            self._flushes -= 1
            if self._done < end and not self._failing:
                self._fails(f"no answer in {timeout:g} s")
            return self._done >= end

    def close(self, is_worth_waiting: Callable[[], bool], look_every: float = 2.0) -> int:
        """Write the rest and stop; return how many entries the store lacks, also those that no journal keeps.

        Args:
            is_worth_waiting: is asked now and then, and ends the waiting when it says no.
            look_every: seconds between two questions.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        # Interrupted by a signal, Thread.join of Python 3.11 takes a thread that is busy for one that has ended.
        while not self._ended.wait(look_every) and is_worth_waiting():
            pass
        with self._changed:
            self._given_up = True
            return self._waiting

    def _feed(self) -> None:
        failures = 0  # at the end three attempts are enough
        try:
            while failures < 3 and (entries := self._next()):
                if (not self._failing or self._answers()) and self._try(entries):
                    failures = 0
                else:
                    failures += self._closing
                    self._rest()
        finally:
            self._ended.set()

    def _rest(self) -> None:
        """Wait before the next attempt; the end of training cuts it short."""
        with self._changed:
            was_closing = self._closing
            self._changed.wait_for(lambda: self._closing != was_closing, self._every)

    def _next(self) -> list[Entry]:
        """Wait for, and return, the metrics at the head of the journal, or the one other entry; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(self._is_in_haste, self._every)
            if self._given_up:
                return []
            waiting = self._journal.waiting(BATCH) if self._journal.count else self._unkept[:BATCH]
        metrics = takewhile(lambda entry: entry.content["kind"] == "metrics", waiting)
        return list(metrics) or waiting[:1]

    def _is_in_haste(self) -> bool:
        return bool(self._flushes) or self._closing or self._waiting >= BATCH

    def _try(self, entries: list[Entry]) -> bool:
        """Do the first of what is waiting; return whether it is done, or never will be."""
        facts: Mapping[str, Any] = {}
        kind = entries[0].content["kind"]
        try:
            facts = self._write([entry.content for entry in entries])
        except Exception as error:
            if kind == "open" or not is_its_own_fault(error):
                with self._changed:
                    self._fails(first_line(error))
                return False
            logger.warning("MLflow refuses %d entries (%s): %s", len(entries), kind, first_line(error))
        with self._changed:
            if self._given_up:
                return True  # nobody asks any more, and the journal may be another's
            if self._failing:
                logger.warning("MLflow answers again")
            self._failing = False
            self._confirm(entries, facts)
            self._done += len(entries)
            self._changed.notify_all()
        return True

    def _confirm(self, entries: list[Entry], facts: Mapping[str, Any]) -> None:
        if self._journal.count:
            self._journal.confirm(entries, facts)
        else:
            del self._unkept[: len(entries)]
            self._journal.facts |= facts

    def _fails(self, reason: str) -> None:
        """Say once that the store fails; the lock is held."""
        self.reason = reason
        if not self._failing and not self._given_up:
            place = f" in {self._journal.file}" if self._journal.file else ""
            logger.warning("MLflow does not answer, which holds up nothing; what it lacks waits%s: %s", place, reason)
        self._failing = True
        self._changed.notify_all()


def is_its_own_fault(error: Exception) -> bool:
    """Return whether an entry fails for what it is: no later attempt, and no other day, will be better."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return 400 <= status < 500 and status not in LATER
    if isinstance(error, OSError):  # among them all that `requests` raises
        return isinstance(error, FileNotFoundError)
    return type(error).__module__ == "builtins"  # a mistake in a program, not a word from a store's own package
