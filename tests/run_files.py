"""What the tests of whole runs look at: checkpoints, weights, and the MLflow run."""

import json
import math

import torch
from mlflow.tracking import MlflowClient


def weights(run):
    return torch.load(run / "models" / "model.pt", weights_only=True)


def last(run):
    """The checkpoint, its history as rows."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    state["trainer"]["history"] = [json.loads(line) for line in state["trainer"]["history"].splitlines()]
    return state


def mlflow_run(tmp_path, run):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    return client, client.get_run(json.loads((run / "run.json").read_text())["mlflow_run_id"])


def same(first, second):
    """Whether two nested states are equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


def without_times(state):
    for row in state["trainer"]["history"]:
        for name in [name for name in row if name.startswith("time/")]:
            del row[name]
    return state


def steps(tmp_path, run, name):
    """The steps at which a run logged a metric, in order and with all repeats."""
    client, tracked = mlflow_run(tmp_path, run)
    return sorted(metric.step for metric in client.get_metric_history(tracked.info.run_id, name))
