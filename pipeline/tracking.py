"""One MLflow run, fed without slowing training, and never left RUNNING."""

from __future__ import annotations

import copy
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.entities import Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from pipeline.feeder import Feeder
from pipeline.mlflow_store import answers, is_remote, open_run, set_tags
from pipeline.system_metrics import SystemMetrics

logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"  # what a plain `mlflow ui` opens in the same folder
LONGEST_VALUE = 6000  # characters, MLflow's limit for a parameter
FLUSH_WITHIN = 5  # seconds that training waits for a store, once per outage
KILLED_WITHIN = 10  # seconds for the last words of a run that was told to stop
STALLED_AFTER = 900  # seconds at the end for a server that answers, but takes so long over what it is sent


class Tracking:
    """A run in an MLflow store; calls before `start` and after `end` do nothing.

    Nothing here uses MLflow's global "active run", through which runs that crash or start together get mixed up, and
    nothing between `start` and `end` waits for the store: a server may die without harm to the training.

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

        A run's params are those of its first start. Where they are others when it is opened again, tags say so:
        `resumed.learning_rate`.

        Where a server does not answer, that is said, and nothing is tracked.
        """
        entries = {legal(key): str(value)[:LONGEST_VALUE] for key, value in (params or {}).items()}
        opened = open_run(self.uri, self.experiment, name, tags, run_id, entries)
        if opened is None:
            return None
        self.client, self._experiment_id, self.run_id, self._last_steps = opened
        self._feeder = Feeder(lambda metrics: opened.client.log_batch(opened.run_id, metrics=metrics))
        looks = [step for key, step in opened.last_steps.items() if key.startswith("system/")]
        self._system = None
        if self.system_metrics_every:
            self._system = SystemMetrics(self.metrics, self.system_metrics_every, max(looks, default=-1) + 1)
        return opened.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics; what a resumed run logged before its kill is not logged twice."""
        if self.run_id is None:
            return
        now = int(time.time() * 1000)
        for key, value in values.items():
            name = legal(key)
            if step > self._last_steps.get(name, -1):
                self._feeder.put(Metric(name, float(value), now, step))

    def flush(self) -> None:
        """Let the store have all metrics logged so far, as before a checkpoint: no kill can lose them then."""
        if self.run_id is not None:
            self._feeder.flush(FLUSH_WITHIN)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it, as an artifact."""
        if self.run_id is not None:
            run_id, log = self.run_id, self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            self._feeder.call(lambda: log(run_id, str(path), folder))

    def model(self, network: torch.nn.Module, example: np.ndarray) -> None:
        """Keep a network as an MLflow model that `mlflow.pytorch.load_model` gives back.

        Args:
            network: on any device, in evaluation mode.
            example: one input (1, C, *spatial) that the network takes.
        """
        if self.run_id is not None:
            run_id, network = self.run_id, copy.deepcopy(network).cpu()
            self._feeder.call(lambda: self._log_model(run_id, network, example))

    def tag(self, **tags: str) -> None:
        """Set tags."""
        if self.run_id is not None:
            run_id = self.run_id
            self._feeder.call(lambda: set_tags(self.client, run_id, tags))

    def end(self, status: str = "FINISHED") -> bool:
        """Write what is waiting, close the run as FINISHED, FAILED or KILLED, and return whether the store has it all.

        A store that no longer answers is given up on within seconds.
        """
        if self.run_id is None:
            return True
        if self._system is not None:
            self._system.stop()
        client, run_id, self.run_id = self.client, self.run_id, None
        self._feeder.call(lambda: client.set_terminated(run_id, status))
        lost = self._feeder.close(self._patience(status))
        if lost:
            logger.warning("%d entries of this run were not written to MLflow at %s", lost, self.uri)
        return not lost

    def _patience(self, status: str) -> Callable[[], bool]:
        """Return a question whether the store is still worth waiting for."""
        limit = KILLED_WITHIN if status == "KILLED" else STALLED_AFTER if is_remote(self.uri) else math.inf
        deadline, silent = time.monotonic() + limit, 0

        def is_worth_waiting() -> bool:
            nonlocal silent
            silent = 0 if not is_remote(self.uri) or answers(self.uri) else silent + 1
            return silent < 2 and time.monotonic() < deadline

        return is_worth_waiting

    def _log_model(self, run_id: str, network: torch.nn.Module, example: np.ndarray) -> None:
        try:
            entry = self.client.create_logged_model(self._experiment_id, "model", source_run_id=run_id)
            with _as_global_store(self.uri), warnings.catch_warnings():
                # torch.export, reading back what it wrote.
                warnings.filterwarnings("ignore", "No complete tensor found in the group")
                Model.log(
                    artifact_path=None,
                    model_id=entry.model_id,
                    flavor=mlflow.pytorch,
                    run_id=run_id,
                    pytorch_model=network,
                    input_example=np.repeat(example, 2, axis=0),  # a batch of one would be exported as always one
                    signature=_any_size(example),
                    pip_requirements=[f"torch=={version('torch').split('+')[0]}", f"monai=={version('monai')}"],
                )
        except Exception as error:  # a network that cannot be exported is still there as the bundle's model.pt
            logger.warning("the network was not kept as an MLflow model: %s", next(iter(str(error).splitlines()), ""))


def _any_size(example: np.ndarray) -> ModelSignature:
    """Say that batch and image may have any size: what is not said so is exported as it is in the example."""
    shape = [-1, example.shape[1], *[-1] * (example.ndim - 2)]
    return ModelSignature(inputs=Schema([TensorSpec(example.dtype, shape)]))


def legal(name: str) -> str:
    """Return a name that MLflow takes for a metric or param: "val/dice/CD4+ (T)" becomes "val/dice/CD4_ _T_"."""
    return re.sub(r"[^\w.\- :/]", "_", name.replace("#", "/").replace("@", ""))


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
