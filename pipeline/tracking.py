"""One MLflow run: opened on any store, fed without slowing training, and never left RUNNING."""

from __future__ import annotations

import copy
import logging
import os
import queue
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import torch
from filelock import FileLock
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.tracking import SEARCH_MAX_RESULTS_THRESHOLD
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"  # what a plain `mlflow ui` opens in the same folder
LONGEST_VALUE = 6000  # characters, MLflow's limit for a parameter
BATCH = 1000, 100  # metrics and parameters that MLflow takes in one call


class Tracking:
    """A run in an MLflow store; calls before `start` and after `end` do nothing.

    Nothing here uses MLflow's global "active run", through which runs that crash or start together get mixed up.

    Args:
        uri: the store; without one `MLFLOW_TRACKING_URI`, else a SQLite file `mlflow.db` in the working directory.
        experiment: the experiment's name.
        system_metrics_every: seconds between looks at CPU, memory, disk and GPU; 0 for none.
    """

    def __init__(self, uri: str | None = None, experiment: str = "unet", system_metrics_every: float = 10) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        self.experiment, self.system_metrics_every = experiment, system_metrics_every
        self.run_id: str | None = None

    def start(
        self, name: str, tags: Mapping[str, str], run_id: str | None = None, params: Mapping[str, Any] | None = None
    ) -> str | None:
        """Open a new run, or the run `run_id` again; return its id.

        A server that cannot be reached is no reason to lose a night of training: it is warned about, and nothing is
        tracked. A store that answers and refuses raises.
        """
        try:
            self.client, self._experiment_id = open_store(self.uri, self.experiment)
            end_abandoned_runs(self.client, self._experiment_id)
            tags = {**tags, **_this_process()}
            self.run_id = run_id or self.client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id
        except MlflowException as error:
            if not self.uri.startswith("http"):
                raise
            logger.warning("no MLflow server at %s, this run is not tracked: %s", self.uri, error)
            return None
        self._logged = _last_steps(self.client, self.run_id) if run_id else {}
        if run_id:
            self.client.update_run(run_id, status="RUNNING")
            self.tag(**tags)
        else:
            self._log_params(params or {})
        opened = self.run_id
        self._feeder = _Feeder(lambda metrics: self.client.log_batch(opened, metrics=metrics))
        self._monitor = self._watch_system(resumed=bool(run_id))
        return opened

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Hand metrics over to the feeding thread; what a resumed run logged before its kill is not logged twice."""
        if self.run_id is None:
            return
        now = int(time.time() * 1000)
        for key, value in values.items():
            name = legal(key)
            if step > self._logged.get(name, -1):
                self._feeder.put(Metric(name, float(value), now, step))

    def text(self, content: str, file: str) -> None:
        """Keep a text as an artifact."""
        if self.run_id is not None:
            self.client.log_text(self.run_id, content, file)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it, as an artifact."""
        if self.run_id is not None:
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(self.run_id, str(path), folder)

    def model(self, network: torch.nn.Module, example: np.ndarray) -> None:
        """Keep a network as an MLflow model that `mlflow.pytorch.load_model` gives back.

        Args:
            network: on any device, in evaluation mode.
            example: one input (1, C, *spatial) that the network takes.
        """
        if self.run_id is None:
            return
        try:
            entry = self.client.create_logged_model(self._experiment_id, "model", source_run_id=self.run_id)
            with _as_global_store(self.uri):
                Model.log(
                    artifact_path=None,
                    model_id=entry.model_id,
                    flavor=mlflow.pytorch,
                    run_id=self.run_id,
                    pytorch_model=copy.deepcopy(network).cpu(),
                    input_example=np.repeat(example, 2, axis=0),  # a batch of one would be exported as always one
                    pip_requirements=[f"torch=={version('torch').split('+')[0]}", f"monai=={version('monai')}"],
                )
        except Exception as error:  # a network that cannot be exported is still there as the bundle's model.pt
            logger.warning("the network was not kept as an MLflow model: %s", str(error).splitlines()[0])

    def tag(self, **tags: str) -> None:
        """Set tags."""
        if self.run_id is not None:
            self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def end(self, status: str = "FINISHED") -> None:
        """Write what is waiting and close the run as FINISHED, FAILED or KILLED."""
        if self.run_id is None:
            return
        run_id = self.run_id
        if self._monitor is not None:
            self._monitor.finish()
        self._feeder.close()
        self.run_id = None
        self.client.set_terminated(run_id, status)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        assert self.run_id is not None
        entries = [Param(legal(key), str(value)[:LONGEST_VALUE]) for key, value in params.items()]
        for start in range(0, len(entries), BATCH[1]):
            self.client.log_batch(self.run_id, params=entries[start : start + BATCH[1]])

    def _watch_system(self, resumed: bool) -> SystemMetricsMonitor | None:
        if not self.system_metrics_every:
            return None
        monitor = SystemMetricsMonitor(
            self.run_id, self.system_metrics_every, resume_logging=resumed, tracking_uri=self.uri
        )
        monitor.start()
        return monitor


def legal(name: str) -> str:
    """Return a name that MLflow takes for a metric or param: "val/dice/CD4+ (T)" becomes "val/dice/CD4_ _T_"."""
    return re.sub(r"[^\w.\- :/]", "_", name.replace("#", "/").replace("@", ""))


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client and the experiment's id, both made if they are not there yet.

    Two processes that meet a new SQLite file at once would both create its tables, and one would fail: on one machine
    they go one after the other.
    """
    with FileLock(Path(tempfile.gettempdir()) / f"unet-pipeline-mlflow-{os.getuid()}.lock"):
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        return client, found.experiment_id if found else client.create_experiment(experiment)


@contextmanager
def _as_global_store(uri: str) -> Iterator[None]:
    """Let MLflow's global store, which also stands in the environment, be `uri`: models are kept through it only."""
    earlier = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if earlier is not None:
            os.environ["MLFLOW_TRACKING_URI"] = earlier


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


def _is_abandoned(run: MlflowRun) -> bool:
    tags = run.data.tags
    if tags.get("host") != socket.gethostname() or "pid.started" not in tags:
        return False
    try:
        return str(psutil.Process(int(tags["pid"])).create_time()) != tags["pid.started"]
    except psutil.NoSuchProcess:
        return True


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Return the last step of each metric of a run."""
    return {metric.key: metric.step for metric in client.get_run(run_id).data._metric_objs}


class _Feeder:
    """A thread that writes metrics in batches, so that training waits for no database."""

    def __init__(self, write: Callable[[list[Metric]], Any], every: float = 1.0) -> None:
        self._write, self._every = write, every
        self._waiting: queue.SimpleQueue[Metric | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._feed, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def put(self, metric: Metric) -> None:
        self._waiting.put(metric)

    def close(self) -> None:
        """Write the rest and stop."""
        self._waiting.put(None)
        self._thread.join()

    def _feed(self) -> None:
        batch: list[Metric] = []
        open_ = True
        while open_:
            deadline = time.monotonic() + self._every
            while open_ and len(batch) < BATCH[0] and (left := deadline - time.monotonic()) > 0:
                try:
                    item = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
                open_ = item is not None
                if item is not None:
                    batch.append(item)
            batch = self._try(batch)
        for start in range(0, len(batch), BATCH[0]):
            self._try(batch[start : start + BATCH[0]])

    def _try(self, batch: list[Metric]) -> list[Metric]:
        """Write a batch and return what is still to be written: nothing, or all of it when the store did not answer."""
        if not batch:
            return batch
        try:
            self._write(batch[: BATCH[0]])
        except MlflowException as error:
            logger.warning("%d metrics wait for the MLflow store: %s", len(batch), error)
            return batch
        return batch[BATCH[0] :]
