"""What the entries of a journal say, done in an MLflow store: once, however often a kill makes them be said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.mlflow_model import Trained, log_model, trained_in
from pipeline.mlflow_store import (
    Last,
    Opened,
    Opening,
    absolute,
    answers,
    find_again,
    first_line,
    is_remote,
    open_now,
    set_tags,
)

logger = logging.getLogger(__name__)

BATCH = 1000  # metrics that MLflow takes in one call
MODEL_ATTEMPTS = 3  # MLflow says the same of a server in trouble and of a network that it cannot export
Content = Mapping[str, Any]


class MLflowWriter:
    """Do entries in a store, one after the other.

    A metric is logged at ascending steps, so what comes at a step that the store has is known to be there. Looks at
    the system, which each start counts from 0, are told apart by their time, and numbered on.

    Args:
        uri: the store.
        folder: of the run, where the paths of artifacts begin.
        run_id: the run, where it is known: entries go to it, and one that opens a run opens this one again.
        opened: the run, where it is open.
    """

    def __init__(self, uri: str, folder: Path | None, run_id: str | None = None, opened: Opened | None = None) -> None:
        self.uri, self.folder, self._known, self.opened = uri, folder, run_id, opened
        self._failures = 0  # to keep the model, of a server that answers
        self.models: dict[int, Trained] = {}  # of this process, by the time of their entry

    @property
    def run_id(self) -> str | None:
        """The run's id, once the store has been asked."""
        return self.opened.run_id if self.opened else None

    def answers(self) -> bool:
        """Return whether the store can be reached."""
        return not is_remote(self.uri) or answers(self.uri)

    def write(self, contents: Sequence[Content]) -> dict[str, Any]:
        """Do entries, and return what is worth noting of it; several at once are all metrics."""
        kind = contents[0]["kind"]
        if kind == "open":
            return self._open(contents[0])
        if self.opened is None:
            self._reach()
            if self._known is None:
                raise InputError("no entry says which run this journal is of")
            self.opened = find_again(self.uri, self._known)
        if kind == "metrics":
            self._metrics(self.opened, contents)
        else:
            kinds: dict[str, Callable[[Opened, Content], None]]
            kinds = {"tags": self._tags, "artifact": self._artifact, "model": self._model, "end": self._end}
            kinds[kind](self.opened, contents[0])
        return {}

    def _reach(self) -> None:
        # MLflow's own client tries for minutes before it says that nobody listens.
        if not self.answers():
            raise ConnectionError(f"no MLflow server answers at {self.uri}")

    def _open(self, content: Content) -> dict[str, Any]:
        self._reach()
        keys = ("experiment", "name", "tags", "params", "key", "time")
        self.opened = open_now(self.uri, Opening(*(content[key] for key in keys)), self.run_id or self._known)
        return {"run_id": self.opened.run_id, "uri": absolute(self.uri)}

    def _metrics(self, run: Opened, contents: Sequence[Content]) -> None:
        lasts, fresh = dict(run.lasts), []
        for content in contents:
            for name, value in content["values"].items():
                now = Last(content["step"], content["time"])
                last = lasts.get(name, Last(-1, -1))
                if name.startswith("system/") and now.time > last.time:
                    now = Last(max(now.step, last.step + 1), now.time)
                if now.step > last.step:
                    lasts[name] = now
                    fresh.append(Metric(name, value, now.time, now.step))
        for start in range(0, len(fresh), BATCH):
            batch = fresh[start : start + BATCH]
            run.client.log_batch(run.run_id, metrics=batch)
            run.lasts.update({metric.key: Last(metric.step, metric.timestamp) for metric in batch})

    def _tags(self, run: Opened, content: Content) -> None:
        set_tags(run.client, run.run_id, content["tags"])

    def _artifact(self, run: Opened, content: Content) -> None:
        path = (self.folder or Path()) / content["path"]
        log = run.client.log_artifacts if path.is_dir() else run.client.log_artifact
        log(run.run_id, str(path), content["folder"])

    def _model(self, run: Opened, content: Content) -> None:
        try:
            trained = self.models.get(content["time"]) or trained_in(self.folder or Path())
            log_model(run.client, self.uri, run.experiment_id, run.run_id, trained)
        except Exception as error:  # a network that cannot be exported is still there as the bundle's model.pt
            self._failures += self.answers()
            if isinstance(error, MlflowException | OSError) and self._failures < MODEL_ATTEMPTS:
                raise
            logger.warning("the network was not kept as an MLflow model: %s", first_line(error))
        self.models.pop(content["time"], None)

    def _end(self, run: Opened, content: Content) -> None:
        run.client.set_terminated(run.run_id, content["status"], content["time"])
