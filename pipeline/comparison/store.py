"""Runs in an MLflow store, read without a change: found by experiment, name, id or filter, histories in samples."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from pipeline.errors import InputError, did_you_mean
from pipeline.mlflow_store import answers, is_remote, store_of

TOP = "tags.`mlflow.parentRunId` IS NULL"
FINISHED = "attributes.status = 'FINISHED'"
POINTS = 300  # of a learning curve, more than its pixels show
AT_A_TIME = 100  # runs in one question for histories, MLflow's limit
PAGE = 1000  # runs in one answer


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow has it: what it was asked, what it came to, where its artifacts are."""

    id: str
    name: str
    experiment_id: str
    status: str
    start: int
    artifact_uri: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def parent(self) -> str | None:
        """Id of the run that this one is beneath."""
        return self.tags.get("mlflow.parentRunId")

    @property
    def evaluation(self) -> str | None:
        """The split that this run evaluated; None for a training."""
        return self.tags.get("evaluation")

    @property
    def digest(self) -> str | None:
        """Digest of its data list."""
        return self.tags.get("data_list.digest")

    @property
    def data_digest(self) -> str | None:
        """Digest of the content of the cases that it trained and validated with, or evaluated."""
        return self.tags.get("data.digest")


class Store:
    """A tracking server or SQLite file.

    Args:
        uri: the store; without one `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = store_of(uri)
        if self.uri.startswith("sqlite:///"):
            file = Path(self.uri.removeprefix("sqlite:///"))
            if not file.is_file():  # MLflow would make an empty one
                raise InputError("there is no such MLflow store", file=file, remedy="train first, or give --uri")
            self.uri = f"sqlite:///{file.resolve()}"  # MLflow keeps stores open by name, from whatever folder
        if is_remote(self.uri) and not answers(self.uri):
            raise InputError(f"no MLflow server answers at {self.uri}", remedy="start it, or give another --uri")
        self.client: MlflowClient = self._ask(MlflowClient, tracking_uri=self.uri)

    def experiments(self) -> dict[str, str]:
        """Names of the experiments by id."""
        return {found.experiment_id: found.name for found in self._ask(self.client.search_experiments)}

    def experiment(self, name: str) -> str:
        """The id of an experiment."""
        ids = {known: key for key, known in self.experiments().items()}
        if name not in ids:
            raise InputError(f"no experiment '{name}' in {self.uri}", remedy=did_you_mean(name, ids))
        return ids[name]

    def search(
        self, experiments: Sequence[str], filter_: str = "", order: Sequence[str] = (), most: float = math.inf
    ) -> list[TrackedRun]:
        """Return the runs that a filter in MLflow's words lets through, all of them or at most so many."""
        found: list[TrackedRun] = []
        token: str | None = None
        while experiments and len(found) < most:
            options = {"order_by": list(order) or None, "max_results": int(min(most - len(found), PAGE))}
            page = self._ask(self.client.search_runs, list(experiments), filter_, page_token=token, **options)
            found += map(_tracked, page)
            if not (token := page.token):
                break
        return found

    def named(self, words: Sequence[str], experiments: Sequence[str]) -> tuple[list[TrackedRun], list[str]]:
        """Return the runs that names, ids or beginnings of ids mean, and what is to be said of them."""
        runs, notes = [], []
        for word in words:
            found = self._meant_by(word, experiments)
            if not found:
                known = [run.name for run in self.search(experiments, TOP, ["attributes.start_time DESC"], 30)]
                raise InputError(f"no run has the name or id '{word}'", remedy=did_you_mean(word, known))
            if len(found) > 1:
                notes.append(f"{len(found)} runs are called '{word}': the newest counts ({found[0].id[:8]})")
            runs.append(found[0])
        return list({run.id: run for run in runs}.values()), notes

    def _meant_by(self, word: str, experiments: Sequence[str]) -> list[TrackedRun]:
        newest = ["attributes.start_time DESC"]
        mark = '"' if "'" in word else "'"
        found = self.search(experiments, f"attributes.run_name = {mark}{word}{mark}", newest, 100)
        if not found and re.fullmatch(r"[0-9a-f]{4,32}", word):
            found = self.search(experiments, f"attributes.run_id LIKE '{word}%'", newest, 2)
            if len(found) > 1:
                raise InputError(f"the ids of several runs begin with '{word}'", remedy="give more of the id")
        return found

    def histories(self, runs: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return a metric's (step, value) pairs for each run that has it, about POINTS of them, evenly drawn."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for start in range(0, len(runs), AT_A_TIME):
            for run, step, value in self._samples(list(runs[start : start + AT_A_TIME]), metric):
                found[run][step] = value
        return {run: sorted(points.items()) for run, points in found.items()}

    def _samples(self, runs: list[str], metric: str) -> list[tuple[str, int, float]]:
        """Ask as MLflow's own page does for its charts: the public client knows whole histories only."""
        if is_remote(self.uri):
            question = {"run_ids": runs, "metric_key": metric, "max_results": POINTS}
            endpoint = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
            creds = get_default_host_creds(self.uri)
            answer = self._ask(http_request, creds, endpoint, "GET", params=question, raise_on_status=False)
            if answer.status_code == 200:
                points = answer.json().get("metrics", [])
                return [(p["run_id"], int(p.get("step", 0)), float(p["value"])) for p in points]
        else:
            store = self.client._tracking_client.store
            points = store.get_metric_history_bulk_interval(runs, metric, POINTS, None, None)
            return [(point.run_id, point.step, point.value) for point in points]
        return [(run, point.step, point.value) for run in runs for point in self.client.get_metric_history(run, metric)]

    def _ask(self, question: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return question(*arguments, **options)
        except MlflowException as error:
            reason = f"the MLflow store {self.uri} refuses: {next(iter(str(error).splitlines()), '')[:300]}"
            raise InputError(reason, remedy="check --uri, --filter and MLFLOW_TRACKING_URI") from error


def _tracked(run: Run) -> TrackedRun:
    info, data = run.info, run.data
    return TrackedRun(
        info.run_id,
        info.run_name or info.run_id[:8],
        info.experiment_id,
        info.status,
        info.start_time or 0,
        info.artifact_uri or "",
        dict(data.params),
        dict(data.tags),
        dict(data.metrics),
    )
