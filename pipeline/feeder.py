"""The thread through which everything goes to a tracking store, so that training waits for no database or server."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

logger = logging.getLogger(__name__)

BATCH = 1000  # metrics that MLflow takes in one call
Call = Callable[[], Any]


class Feeder:
    """Write metrics in batches and do other calls, in the order they came; what a store cannot take now waits.

    Args:
        write: writes a list of up to 1000 metrics.
        every: seconds that metrics are gathered for, and between two attempts.
        limit: metrics that wait at most, some 40 MB; what comes when so many do is dropped, and counted as lost.
    """

    def __init__(self, write: Callable[[list[Metric]], Any], every: float = 1.0, limit: int = 100_000) -> None:
        self._write, self._every, self._limit = write, every, limit
        self._waiting: deque[Metric | Call] = deque()
        self._done = self._dropped = self._flushes = 0
        self._failing = self._closing = self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._feed, name="mlflow-feeder", daemon=True)
        self._thread.start()

    def put(self, metric: Metric) -> None:
        """Write a metric when its turn comes."""
        with self._changed:
            if len(self._waiting) >= self._limit:
                self._dropped += 1
                return
            self._waiting.append(metric)
            if len(self._waiting) in (1, BATCH):
                self._changed.notify_all()

    def call(self, call: Call) -> None:
        """Do a call when its turn comes."""
        with self._changed:
            self._waiting.append(call)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until what came so far is written; return whether it is. Waits for a store that has failed no more."""
        with self._changed:
            end = self._done + len(self._waiting)
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
        """Write the rest and stop; return how many entries were lost.

        Args:
            is_worth_waiting: is asked now and then, and ends the waiting when it says no.
            look_every: seconds between two questions.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(look_every)
        while self._thread.is_alive() and is_worth_waiting():
            self._thread.join(look_every)
        with self._changed:
            self._given_up = self._thread.is_alive()
            lost = len(self._waiting) + self._dropped
            self._waiting.clear()
        return lost

    def _feed(self) -> None:
        failures = 0  # at the end three attempts are enough
        while failures < 3 and (work := self._next()):
            if self._try(work):
                failures = 0
            else:
                failures += self._closing
                time.sleep(self._every)

    def _next(self) -> list[Any]:
        """Wait for, and return, the metrics at the head of the queue, or the one call; nothing after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(self._is_in_haste, self._every)
            metrics = islice(takewhile(lambda entry: isinstance(entry, Metric), self._waiting), BATCH)
            return list(metrics) or list(islice(self._waiting, 1))

    def _is_in_haste(self) -> bool:
        return bool(self._flushes) or self._closing or len(self._waiting) >= BATCH

    def _try(self, work: list[Any]) -> bool:
        """Do the first of what is waiting; return whether it is done, or never will be."""
        try:
            if isinstance(work[0], Metric):
                self._write(work)
            else:
                work[0]()
        except MlflowException as error:
            if error.get_http_status_code() >= 500:
                with self._changed:
                    self._fails(str(error))
                return False
            logger.warning("MLflow refuses %d entries: %s", len(work), _first_line(error))
        except Exception as error:
            logger.warning("not written to MLflow: %s: %s", type(error).__name__, _first_line(error))
        with self._changed:
            if self._failing and not self._given_up:
                logger.warning("MLflow answers again")
            self._failing = False
            for _ in range(min(len(work), len(self._waiting))):
                self._waiting.popleft()
            self._done += len(work)
            self._changed.notify_all()
        return True

    def _fails(self, reason: str) -> None:
        """Say once that the store fails; the lock is held."""
        if not self._failing:
            logger.warning("MLflow does not answer; training goes on, what it logs waits: %s", _first_line(reason))
        self._failing = True
        self._changed.notify_all()


def _first_line(text: object) -> str:
    return next(iter(str(text).splitlines()), "")[:300]
