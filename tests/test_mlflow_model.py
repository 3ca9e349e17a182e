"""A network goes into a store and comes back, once."""

import json
import shutil

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from pipeline.errors import InputError
from pipeline.journal import EXAMPLE
from pipeline.mlflow_model import Trained, log_model, trained_in, weights_digest
from pipeline.mlflow_store import open_store

CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}


def test_a_network_comes_back_and_is_kept_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, experiment = open_store(uri, "tests")
    run_id = client.create_run(experiment).info.run_id
    network = torch.nn.Conv2d(1, 2, 1).eval()
    trained = Trained(network, np.zeros((1, 1, 4, 4), np.float32))
    for _ in range(2):
        log_model(client, uri, experiment, run_id, trained)
    (model,) = MlflowClient(uri).search_logged_models([experiment])
    assert model.source_run_id == run_id
    mlflow.set_tracking_uri(uri)
    back = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    mlflow.set_tracking_uri(None)
    image = torch.randn(3, 1, 5, 7)  # of another batch and size than the example
    torch.testing.assert_close(back(image), network(image))


@pytest.mark.parametrize("is_failed", [False, True])
def test_what_an_attempt_that_was_killed_has_left_is_replaced(tmp_path, monkeypatch, empty_store, is_failed):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copyfile(empty_store, tmp_path / 'mlflow.db')}"
    client, experiment = open_store(uri, "tests")
    run_id = client.create_run(experiment).info.run_id
    trained = Trained(torch.nn.Conv2d(1, 2, 1).eval(), np.zeros((1, 1, 4, 4), np.float32))

    def killed(*arguments, **options):
        client.log_outputs(run_id, [LoggedModelOutput(options["model_id"], 0)])
        if is_failed:
            client.finalize_logged_model(options["model_id"], LoggedModelStatus.FAILED)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "log", killed)
        with pytest.raises(KeyboardInterrupt):
            log_model(client, uri, experiment, run_id, trained)
    log_model(client, uri, experiment, run_id, trained)
    (model,) = client.search_logged_models([experiment])
    assert model.status == LoggedModelStatus.READY
    other = Trained(torch.nn.Conv2d(1, 2, 1).eval(), trained.example)
    assert weights_digest(other.network) != weights_digest(trained.network) == model.tags["weights"]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": CONV}))
    (tmp_path / EXAMPLE).parent.mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / EXAMPLE, np.ones((1, 1, 4, 4), np.float32))
    return tmp_path


def test_a_runs_folder_says_what_was_trained_in_it(run):
    network = torch.nn.Conv2d(1, 2, 1)
    torch.save(network.state_dict(), run / "models" / "model.pt")
    found = trained_in(run)
    assert not found.network.training
    example = torch.from_numpy(found.example)
    torch.testing.assert_close(found.network(example), network(torch.ones(1, 1, 4, 4)))


def test_a_runs_folder_without_weights(run):
    with pytest.raises(InputError, match="there are no trained weights"):
        trained_in(run)
