"""Cases of several threads of one process: one is read, one is predicted, one is written at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from pipeline.batch.case_work import CaseWork, Row
from pipeline.batch.inputs import Input
from pipeline.batch.stages import Outcome

AT_ONCE = 3  # cases that are worth being in a process: one in each stage


class Turns:
    """Lets threads do whole cases, so that one reads and one writes while the network predicts a third.

    It is what `run_stages` does for cases that are known beforehand: reading and writing compute on one thread each,
    and a large volume has the memory for itself.

    Args:
        work: what is done of a case.
    """

    def __init__(self, work: CaseWork) -> None:
        self.work = work
        self._threads = torch.get_num_threads()
        self._reading, self._predicting, self._writing = threading.Lock(), threading.Lock(), threading.Lock()
        self._room = _Room()

    def whole(
        self, entry: Input, is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[Row, Mapping[str, float]] | None:
        """Do all of a case; return its row, and its seconds by stage.

        Args:
            entry: the case.
            is_wanted: asked when it is the case's turn; if not, nothing is done and None returned.
        """
        outcome = Outcome(entry, result=entry)
        with self._room.taken(whole=self.work.wants_room(entry)):
            with self._reading:
                if not is_wanted():
                    return None
                torch.set_num_threads(1)
                outcome.run(self.work.read)
            with self._predicting:
                torch.set_num_threads(self._threads)
                outcome.run(self.work.predict)
            with self._writing:
                torch.set_num_threads(1)
                return self.work.row(outcome.run(self.work.write)), outcome.clock.seconds


class _Room:
    """Is shared by many, or taken by one as a whole; who waits for the whole comes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._waiting = 0
        self._is_whole = False

    @contextmanager
    def taken(self, whole: bool) -> Iterator[None]:
        with self._changed:
            self._waiting += whole
            self._changed.wait_for(lambda: self._is_open(whole))
            self._waiting -= whole
            self._inside += 1
            self._is_whole = whole
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._is_whole = False
                self._changed.notify_all()

    def _is_open(self, whole: bool) -> bool:
        if whole:
            return self._inside == 0
        return not self._is_whole and not self._waiting
