"""One MLflow run, fed without slowing training, journaled so that nothing is lost, and never left RUNNING."""

from __future__ import annotations

import copy
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.feeder import Feeder
from pipeline.journal import EXAMPLE, NAME, Journal
from pipeline.mlflow_model import Trained
from pipeline.mlflow_store import absolute, is_remote, open_run, store_of, store_refuses, this_process
from pipeline.mlflow_writer import MLflowWriter
from pipeline.system_metrics import SystemMetrics
from pipeline.volumes.atomic import atomic_path

logger = logging.getLogger(__name__)

LONGEST_VALUE = 6000  # characters, MLflow's limit for a parameter
OPEN_WITHIN = 8  # seconds that the start waits for a server to open the run
FLUSH_WITHIN = 5  # seconds that training waits for a store, once per outage
KILLED_WITHIN = 10  # seconds for the last words of a run that was told to stop
STALLED_AFTER = 900  # seconds at the end for a server that answers, but takes so long over what it is sent


class Tracking:
    """A run in an MLflow store; calls before `start` and after `end` do nothing.

    Nothing here uses MLflow's global "active run", through which runs that crash or start together get mixed up, and
    nothing between `start` and `end` waits for the store: a server may die without harm to the training. What it does
    not have waits in the run's folder, and is written when it is back, by a resumed run, or by `sync`.

    Args:
        uri: the store; without one `MLFLOW_TRACKING_URI`, else a SQLite file `mlflow.db` in the working directory.
        experiment: the experiment's name.
        system_metrics_every: seconds between looks at CPU, memory, disk and GPU; 0 for none.
    """

    def __init__(self, uri: str | None = None, experiment: str = "unet", system_metrics_every: float = 10) -> None:
        self.uri = store_of(uri)
        self.experiment, self.system_metrics_every = experiment, system_metrics_every
        self._feeder: Feeder | None = None
        self._writer: MLflowWriter | None = None
        self._system: SystemMetrics | None = None

    @property
    def run_id(self) -> str | None:
        """The run's id, as soon as the store has opened it."""
        return self._writer.run_id if self._writer else None

    @property
    def is_on(self) -> bool:
        """Whether what is logged now will be in the store some day."""
        return self._feeder is not None

    def start(
        self,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        resume: bool = False,
        key: str | None = None,
    ) -> str | None:
        """Open a new run, or the run `run_id` again; return its id, None where a server does not answer.

        A run's params are those of its first start. Where they are others when it is opened again, tags say so:
        `resumed.learning_rate`.

        Args:
            name: of the run.
            tags: of the run.
            run_id: an earlier run of this store.
            params: of the run.
            folder: the run's own, which one process writes at a time: `mlflow.journal` in it keeps what a server has
                not taken, be it from the start on. Without a folder, a run that no server opens is not tracked.
            resume: what an earlier process has left in the journal is of this run.
            key: of a run with a folder, by which the store finds it again where no `run_id` is known; else a new one.
        """
        entries = {legal(key): str(value)[:LONGEST_VALUE] for key, value in (params or {}).items()}
        if folder is None:
            opened = open_run(self.uri, self.experiment, name, tags, run_id, entries)
            if opened is None:
                return None
            self._begin(Journal(), MLflowWriter(self.uri, None, opened=opened))
        else:
            journal = journal_for(folder, self.uri, resume)
            is_new = not journal.end
            self._begin(journal, MLflowWriter(self.uri, folder, journal.facts.get("run_id") or run_id))
            own = {key: str(value) for key, value in {**tags, **this_process()}.items()}
            opening = {"experiment": self.experiment, "name": name, "tags": own, "params": entries}
            self._put("open", **opening, uri=absolute(self.uri), key=key or uuid.uuid4().hex)
            self._wait_for_store(is_new)
        if self.system_metrics_every:
            self._system = SystemMetrics(self.metrics, self.system_metrics_every)
        return self.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics at ascending steps; what a resumed run logged before its kill is not logged twice."""
        self._put("metrics", step=step, values={legal(key): float(value) for key, value in values.items()})

    def flush(self) -> None:
        """Let the store have all that was logged so far, as before a checkpoint."""
        if self._feeder is not None:
            self._feeder.flush(FLUSH_WITHIN)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it, as an artifact."""
        if self._writer is not None:
            home, file = (self._writer.folder or Path()).absolute(), path.absolute()
            is_inside = self._writer.folder is not None and file.is_relative_to(home)
            self._put("artifact", path=str(file.relative_to(home) if is_inside else file), folder=folder)

    def model(self, network: torch.nn.Module, example: np.ndarray) -> None:
        """Keep a network as an MLflow model that `mlflow.pytorch.load_model` gives back.

        Another process, which has only the run's folder, builds it from there.

        Args:
            network: on any device, in evaluation mode.
            example: one input (1, C, *spatial) that the network takes.
        """
        if self._writer is None:
            return
        if self._writer.folder is not None:
            with atomic_path(self._writer.folder / EXAMPLE) as file:
                np.save(file, example)
        now = _now()
        self._writer.models[now] = Trained(copy.deepcopy(network).cpu(), example)
        self._put("model", time=now)

    def tag(self, **tags: str) -> None:
        """Set tags."""
        self._put("tags", tags={key: str(value) for key, value in tags.items()})

    def end(self, status: str = "FINISHED") -> bool:
        """Write what is waiting, close the run as FINISHED, FAILED or KILLED, and return whether nothing is lost.

        A store that no longer answers is given up on within seconds; what it lacks stays in the run's folder.
        """
        if self._feeder is None:
            return True
        if self._system is not None:
            self._system.stop()
        self._put("end", status=status)
        feeder, self._feeder = self._feeder, None
        try:
            feeder.close(self._patience(status))
        except BaseException:  # the user, or SIGTERM: the run is closed all the same, in less time
            status = "KILLED"
            feeder.close(self._patience(status))
            raise
        finally:
            lacking = feeder.close(lambda: False, look_every=0)
            if lacking and status != "FINISHED":
                self._end_before_the_rest(status)
            is_kept = self._leave(lacking)
        return is_kept

    def _end_before_the_rest(self, status: str) -> None:
        """Close the run in a file, which is there, though an entry (the model of a large network) takes too long."""
        assert self._writer is not None
        if not is_remote(self.uri) and self._writer.opened is not None:
            with suppress(Exception):
                self._writer.write([{"kind": "end", "time": _now(), "status": status}])

    def _leave(self, lacking: int) -> bool:
        """Let go of the journal, say what the store lacks, and return whether all of that waits in the journal."""
        kept = self._journal.count if self._journal.file else 0
        if kept:
            words = "MLflow at %s lacks %d entries of this run, which wait in its folder; to write them: %s"
            logger.warning(words, self.uri, kept, f"python -m pipeline sync {self._journal.file.parent}")  # type: ignore[union-attr]
            self._journal.close()
        else:
            self._journal.delete()
        if lacking > kept:
            logger.warning("%d entries of this run were not written to MLflow at %s", lacking - kept, self.uri)
        return lacking == kept

    def _begin(self, journal: Journal, writer: MLflowWriter) -> None:
        self._journal, self._writer = journal, writer
        self._feeder = Feeder(journal, writer.write, writer.answers)

    def _put(self, kind: str, **content: Any) -> None:
        if self._feeder is not None:
            self._feeder.put({"kind": kind, "time": _now(), **content})

    def _wait_for_store(self, is_new: bool) -> None:
        """Wait for a server as long as is bearable; a file that cannot be opened raises."""
        assert self._feeder is not None
        if not self._feeder.flush(OPEN_WITHIN if is_remote(self.uri) else None) and not is_remote(self.uri):
            feeder, self._feeder = self._feeder, None
            feeder.close(lambda: False, look_every=0)
            self._journal.delete() if is_new else self._journal.close()
            raise store_refuses(self.uri, feeder.reason)

    def _patience(self, status: str) -> Callable[[], bool]:
        """Return a question whether the store is still worth waiting for."""
        limit = KILLED_WITHIN if status == "KILLED" else STALLED_AFTER if is_remote(self.uri) else math.inf
        deadline, silent = time.monotonic() + limit, 0

        def is_worth_waiting() -> bool:
            nonlocal silent
            assert self._writer is not None
            silent = 0 if self._writer.answers() else silent + 1
            return silent < 2 and time.monotonic() < deadline

        return is_worth_waiting


def journal_for(folder: Path, uri: str, resume: bool) -> Journal:
    """Return the journal of a run that goes to a store.

    What waits there of an earlier run of this name, or for another store that has the run already, is set aside. A
    store that never opened the run is no such: the one that does gets it all.
    """
    journal = Journal(folder / NAME)
    if resume and journal.facts.get("uri") in (None, absolute(uri)):
        return journal
    if not journal.count:
        journal.delete()
    else:
        number = next(number for number in range(1, 1000) if not _aside(folder, number).exists())
        journal.close()
        (folder / NAME).rename(_aside(folder, number))
    return Journal(folder / NAME)


def _aside(folder: Path, number: int) -> Path:
    return folder / f"{Path(NAME).stem}-{number}.journal"


def _now() -> int:
    return int(time.time() * 1000)


def legal(name: str) -> str:
    """Return a name that MLflow takes for a metric or param: "val/dice/CD4+ (T)" becomes "val/dice/CD4_ _T_"."""
    return re.sub(r"[^\w.\- :/]", "_", name.replace("#", "/").replace("@", ""))
