"""An MLflow store: whether it answers, and how a run is opened in it."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock
from mlflow.entities import Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import SEARCH_MAX_RESULTS_THRESHOLD
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from pipeline.errors import InputError

logger = logging.getLogger(__name__)

BATCH = 100  # parameters or tags that MLflow takes in one call
OPEN_WITHIN = 10  # seconds in which a server must have opened a run
ANSWER_WITHIN = 4  # seconds in which a server must answer a question


class Opened(NamedTuple):
    """A run in a store, with the last step of each metric that it had before."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    last_steps: dict[str, int]


def is_remote(uri: str) -> bool:
    """Return whether a store is a server, which may be out of reach."""
    return uri.startswith("http")


def answers(uri: str) -> bool:
    """Return whether a tracking server answers at all, be it that it does not know the question."""
    try:
        creds = get_default_host_creds(uri)
        options = {"max_retries": 0, "timeout": ANSWER_WITHIN, "raise_on_status": False}
        return http_request(creds, "/health", "GET", **options).status_code < 500
    except MlflowException:
        return False


def open_run(
    uri: str, experiment: str, name: str, tags: Mapping[str, str], run_id: str | None, params: Mapping[str, str]
) -> Opened | None:
    """Open the run `run_id` again, or a new one; return None after a warning where a server does not.

    A server that cannot be had is no reason to lose a night of training; a file that cannot be opened raises.
    """

    def open_() -> Opened:
        client, experiment_id = open_store(uri, experiment)
        end_abandoned_runs(client, experiment_id)
        all_tags = {**tags, **_this_process()}
        known = _find(client, run_id) if run_id else None
        if known is not None:
            _reopen(client, known, all_tags, params)
            return Opened(client, experiment_id, known.info.run_id, _last_steps(known))
        made = client.create_run(experiment_id, run_name=name, tags=all_tags).info.run_id
        entries = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(entries), BATCH):
            client.log_batch(made, params=entries[start : start + BATCH])
        return Opened(client, experiment_id, made, {})

    if not is_remote(uri):
        try:
            return open_()
        except MlflowException as error:
            reason = f"the MLflow store '{uri}' refuses: {_first_line(error)}"
            raise InputError(reason, remedy="check mlflow#uri and MLFLOW_TRACKING_URI") from error
    try:
        return _in_time(uri, open_)
    except TimeoutError:
        logger.warning("no MLflow server answers at %s: this run is not tracked", uri)
    except MlflowException as error:  # from a server without the right, or from a proxy before one that is not there
        logger.warning("the MLflow server at %s refuses, this run is not tracked: %s", uri, _first_line(error))
    return None


def _in_time(uri: str, open_: Callable[[], Opened]) -> Opened:
    """Return the opened run, or raise TimeoutError; a run that a slow server opens later is ended there and then."""
    result: Future[Opened] = Future()

    def work() -> None:
        try:
            if not answers(uri):
                raise TimeoutError
            opened = open_()
        except Exception as error:
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
            return
        if result.set_running_or_notify_cancel():
            result.set_result(opened)
        else:
            opened.client.set_terminated(opened.run_id, RunStatus.to_string(RunStatus.KILLED))

    threading.Thread(target=work, name="mlflow-opener", daemon=True).start()
    try:
        return result.result(OPEN_WITHIN)
    finally:
        result.cancel()


def _reopen(client: MlflowClient, run: Run, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
    """Let a run be RUNNING, without its former error; params that changed since become tags, for params cannot."""
    run_id, old = run.info.run_id, dict(run.data.params)
    old |= {key.removeprefix("resumed."): tag for key, tag in run.data.tags.items() if key.startswith("resumed.")}
    values = {key: (old.get(key, "None"), params.get(key, "None")) for key in old.keys() | params.keys()}
    client.update_run(run_id, status="RUNNING")
    if "error" in run.data.tags:
        client.delete_tag(run_id, "error")
    changed = {f"resumed.{key}": now for key, (then, now) in values.items() if then != now}
    set_tags(client, run_id, {**tags, **changed})


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client and the experiment's id, both made if they are not there yet.

    Two processes that meet a new SQLite file at once would both create its tables, and one would fail: on one machine
    they go one after the other.
    """
    lock = FileLock(Path(tempfile.gettempdir()) / f"unet-pipeline-mlflow-{os.getuid()}.lock")
    with lock if uri.startswith("sqlite") else nullcontext():
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        return client, found.experiment_id if found else client.create_experiment(experiment)


def end_abandoned_runs(client: MlflowClient, experiment_id: str) -> None:
    """Close runs that say RUNNING though their process on this machine is gone (a SIGKILL leaves no time to say so)."""
    running = client.search_runs(
        [experiment_id], "attributes.status = 'RUNNING'", max_results=SEARCH_MAX_RESULTS_THRESHOLD
    )
    for run in running:
        if _is_abandoned(run):
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def _this_process() -> dict[str, str]:
    """Return what tells this process from any other, also from a later one with the same number."""
    return {"host": socket.gethostname(), "pid": str(os.getpid()), "pid.started": str(psutil.Process().create_time())}


def _is_abandoned(run: Run) -> bool:
    tags = run.data.tags
    if tags.get("host") != socket.gethostname() or "pid.started" not in tags:
        return False
    try:
        return str(psutil.Process(int(tags["pid"])).create_time()) != tags["pid.started"]
    except psutil.NoSuchProcess:
        return True


def _find(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run, None where the store has none of that id: it may be another file of the same name."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        return None


def _last_steps(run: Run) -> dict[str, int]:
    return {metric.key: metric.step for metric in run.data._metric_objs}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    entries = [RunTag(key, str(value)) for key, value in tags.items()]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, tags=entries[start : start + BATCH])
