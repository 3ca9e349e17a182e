"""A store of its own for each test that writes runs."""

import shutil

import pytest
from mlflow.tracking import MlflowClient


@pytest.fixture
def client(empty_store, tmp_path, monkeypatch) -> MlflowClient:
    """Writes to `mlflow.db` in the working directory, where a store is looked for without another word."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
