"""A network as an MLflow model."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from monai.bundle import ConfigParser

from pipeline.handlers.load_weights import load_weights
from pipeline.journal import EXAMPLE
from pipeline.run_folder import MODEL
from pipeline.trust import check_config


class Trained(NamedTuple):
    """A network in evaluation mode, and one input (1, C, *spatial) that it takes."""

    network: torch.nn.Module
    example: np.ndarray


def trained_in(folder: Path) -> Trained:
    """Return the network that a run's folder describes, with its best weights, and the example kept beside it."""
    file = folder / "configs" / "inference.json"
    parser = ConfigParser(ConfigParser.load_config_file(str(file)))
    check_config(parser, file)  # a folder that `sync` is given may come from anywhere
    network = load_weights(folder / MODEL, parser.get_parsed_content("network_def"))
    return Trained(network.cpu().eval(), np.load(folder / EXAMPLE, allow_pickle=False))


def log_model(client: MlflowClient, uri: str, experiment_id: str, run_id: str, trained: Trained) -> None:
    """Keep a network as an MLflow model that `mlflow.pytorch.load_model` gives back; the same weights once a run.

    Args:
        client: of the store.
        uri: of the store.
        experiment_id: of the run.
        run_id: which run trained it.
        trained: the network.
    """
    weights = weights_digest(trained.network)
    if _is_there(client, experiment_id, run_id, weights):
        return
    entry = client.create_logged_model(experiment_id, "model", source_run_id=run_id, tags={"weights": weights})
    with _as_global_store(uri), warnings.catch_warnings():
        # torch.export, reading back what it wrote.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        Model.log(
            artifact_path=None,
            model_id=entry.model_id,
            flavor=mlflow.pytorch,
            run_id=run_id,
            pytorch_model=trained.network,
            input_example=np.repeat(trained.example, 2, axis=0),  # a batch of one would be exported as always one
            signature=_any_size(trained.example),
            pip_requirements=[f"torch=={version('torch').split('+')[0]}", f"monai=={version('monai')}"],
        )


def weights_digest(network: torch.nn.Module) -> str:
    """Return the SHA-256 of a network's weights and their names, in hexadecimal digits."""
    found = hashlib.sha256()
    for name, weights in network.state_dict().items():
        found.update(f"{name} {weights.dtype} {tuple(weights.shape)}\n".encode())
        found.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _is_there(client: MlflowClient, experiment_id: str, run_id: str, weights: str) -> bool:
    """Return whether a run has these weights as a model; what an attempt that was cut short has left is deleted.

    Such a remnant cannot be completed: the run names it already, and may do so once.
    """
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    same = [model for model in found if model.tags.get("weights") == weights]
    for model in same:
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
    return any(model.status == LoggedModelStatus.READY for model in same)


def _any_size(example: np.ndarray) -> ModelSignature:
    """Say that batch and image may have any size: what is not said so is exported as it is in the example."""
    shape = [-1, example.shape[1], *[-1] * (example.ndim - 2)]
    return ModelSignature(inputs=Schema([TensorSpec(example.dtype, shape)]))


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
