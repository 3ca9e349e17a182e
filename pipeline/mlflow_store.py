"""An MLflow store: whether it answers, and how a run is opened in it."""

from __future__ import annotations

import json
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
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import SEARCH_MAX_RESULTS_THRESHOLD
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.rest_utils import http_request

from pipeline.errors import InputError

logger = logging.getLogger(__name__)

BATCH = 100  # parameters or tags that MLflow takes in one call
OPEN_WITHIN = 10  # seconds in which a server must have opened a run
ANSWER_WITHIN = 4  # seconds in which a server must answer a question
DIGEST = 32  # characters of a data list's SHA-256 that MLflow shows; it takes 36
KEY = "journal"  # the tag that tells a run from all others
PARENT = "journal.parent"  # the tag of a run that names the key of the one it stands beneath


class Last(NamedTuple):
    """The last step of a metric, and its time in milliseconds."""

    step: int
    time: int


class Opened(NamedTuple):
    """A run in a store, with the last step of each metric that it had before."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    lasts: dict[str, Last]


class Opening(NamedTuple):
    """How a run is to be opened.

    Args:
        experiment: the experiment's name.
        name: the run's name.
        tags: of the run; those that name a data list put it among the run's inputs, `PARENT` puts it beneath another.
        params: of the run.
        key: tells this run from all others, so that a second attempt finds what the first has made.
        time: milliseconds since 1970 when the run began; without it, now.
    """

    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    key: str | None = None
    time: int | None = None


def store_of(uri: str | None) -> str:
    """Return the store that is meant: the one named, else `MLFLOW_TRACKING_URI`, else what `mlflow ui` opens here."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


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
    opening = Opening(experiment, name, {**tags, **this_process()}, dict(params))
    if not is_remote(uri):
        try:
            return open_now(uri, opening, run_id)
        except MlflowException as error:
            raise store_refuses(uri, first_line(error)) from error
    try:
        return _in_time(uri, lambda: open_now(uri, opening, run_id))
    except TimeoutError:
        logger.warning("no MLflow server answers at %s: this run is not tracked", uri)
    except MlflowException as error:  # from a server without the right, or from a proxy before one that is not there
        logger.warning("the MLflow server at %s refuses, this run is not tracked: %s", uri, first_line(error))
    return None


def open_now(uri: str, opening: Opening, run_id: str | None = None) -> Opened:
    """Open the run `run_id` again, or the one of the opening's key, or a new one."""
    client, experiment_id = open_store(uri, opening.experiment)
    end_abandoned_runs(client, experiment_id)
    known = _find(client, run_id) if run_id else None
    if known is not None:
        _reopen(client, known, opening.tags, opening.params)
    else:
        known = _of_key(client, experiment_id, opening)
    _note_data(client, known.info.run_id, opening.tags)
    _join_family(client, known, opening)
    return Opened(client, experiment_id, known.info.run_id, _lasts(known))


def find_again(uri: str, run_id: str) -> Opened:
    """Return a run that was opened before, as it is; an MlflowException says that the store has none of this id."""
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    return Opened(client, run.info.experiment_id, run_id, _lasts(run))


def store_refuses(uri: str, reason: str) -> InputError:
    """Return what to tell the user of a store that cannot be opened."""
    return InputError(f"the MLflow store '{uri}' refuses: {reason}", remedy="check mlflow#uri and MLFLOW_TRACKING_URI")


def absolute(uri: str) -> str:
    """Return a store's address as it is from any working directory: "sqlite:///mlflow.db" begins in this one."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith(("/", ":")) or not path else f"sqlite:///{Path(path).absolute()}"


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


def this_process() -> dict[str, str]:
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


def _lasts(run: Run) -> dict[str, Last]:
    return {metric.key: Last(metric.step, metric.timestamp) for metric in run.data._metric_objs}


def _of_key(client: MlflowClient, experiment_id: str, opening: Opening) -> Run:
    """Return a new run, or the one of this key, whose opener may have died before it had all its params."""
    known = _search(client, experiment_id, KEY, opening.key)
    tags = opening.tags if opening.key is None else {**opening.tags, KEY: opening.key}
    run = known[0] if known else client.create_run(experiment_id, opening.time, tags, opening.name)
    lacking = [Param(key, value) for key, value in opening.params.items() if key not in run.data.params]
    for start in range(0, len(lacking), BATCH):
        client.log_batch(run.info.run_id, params=lacking[start : start + BATCH])
    if known:
        _reopen(client, client.get_run(run.info.run_id), opening.tags, opening.params)
    return run


def _join_family(client: MlflowClient, run: Run, opening: Opening) -> None:
    """Put a run beneath the one that it names, and above those that name it.

    Of the two the one that is opened later sees to it: a server may have been down when the other began.
    """
    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    for parent in _search(client, experiment_id, KEY, opening.tags.get(PARENT)):
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent.info.run_id)
    for child in _search(client, experiment_id, PARENT, opening.key):
        if child.data.tags.get(MLFLOW_PARENT_RUN_ID) != run_id:
            client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, run_id)


def _search(client: MlflowClient, experiment_id: str, tag: str, value: str | None) -> list[Run]:
    if value is None:
        return []
    words = f"tags.`{tag}` = '{value}'"
    return list(client.search_runs([experiment_id], words, max_results=SEARCH_MAX_RESULTS_THRESHOLD))


def _note_data(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Put the data list that the tags name among the run's inputs; a second time changes nothing."""
    if "data_list.digest" not in tags:
        return
    file, digest = tags["data_list"], tags["data_list.digest"][:DIGEST]
    source = json.dumps({"uri": Path(file).absolute().as_posix()})
    use = InputTag("mlflow.data.context", tags.get("evaluation", "training"))
    data = DatasetInput(Dataset(Path(file).stem, digest, "local", source), [use])
    try:
        client.log_inputs(run_id, [data])
    except MlflowException as error:
        if error.get_http_status_code() >= 500:
            raise
        logger.debug("this MLflow server keeps no inputs: %s", first_line(error))


def first_line(text: object) -> str:
    """Return the beginning of what somebody says at length."""
    return next(iter(str(text).splitlines()), "")[:300]


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    entries = [RunTag(key, str(value)) for key, value in tags.items()]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, tags=entries[start : start + BATCH])
