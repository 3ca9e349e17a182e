"""Two trained runs compared, and runs of a real server that keeps the artifacts itself."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import numpy as np
import pytest
from made_runs import made_run
from mlflow.tracking import MlflowClient

from pipeline.compare import compare, leaderboard
from pipeline.slices import Slice, read_slices


def test_two_trainings_of_the_bundle_are_compared(run_bundle, tmp_path):
    for epochs in (1, 2):
        run_bundle("training", "train.json", run_name=f"e{epochs}", epochs=epochs)
    found = compare(output=tmp_path / "out")
    assert {row.label for row in found.rows} == {"e1", "e2"}
    assert found.baseline.label == "e1"
    assert [(column.key, set(column.values)) for column in found.columns] == [("epochs", {"1", "2"})]
    assert not any("data list" in remark for row in found.rows for remark in row.remarks)
    kept = [tmp_path / "runs" / name / "evaluation" / "validation" / "slices.npz" for name in ("e1", "e2")]
    slices = [read_slices(file.read_bytes()) for file in kept]
    assert slices[0].keys() == slices[1].keys() == set(found.baseline.common)
    for case in slices[0]:
        np.testing.assert_array_equal(slices[0][case].truth, slices[1][case].truth)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<h2>Curves and spread" in page
    assert "<h2>Worst cases" in page
    (best,) = leaderboard()
    assert best.entry.label in ("e1", "e2")


@contextmanager
def server(folder):
    """An MLflow server on a free port, with SQLite, that keeps artifacts itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/kept"]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *places]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_runs_of_a_server_are_compared_from_elsewhere(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    scores = dict(zip("abcdefghijkl", np.linspace(0.5, 0.9, 12), strict=True))
    square = np.ones((6, 6), np.uint8)
    slices = {case: Slice(score, square, square, square) for case, score in scores.items()}
    with server(tmp_path) as uri:
        client = MlflowClient(uri)
        for name, by in (("plain", 0.0), ("long", 0.05)):
            history = [("mean_dice", epoch, epoch / 1000) for epoch in range(900)]
            better = {case: score + by for case, score in scores.items()}
            run = made_run(client, "cells", name, better, params={"by": by}, history=history, slices=slices)
            tags = {"evaluation": "test"}
            made_run(client, "cells", f"test of {name}", better, "test", parent=run, tags=tags, slices=slices)
        made_run(client, "cells", "no scores")
        for metric in ("val/mean_dice", "test/mean_dice"):
            found = compare("cells", uri=uri, metric=metric, output=tmp_path / "out")
            assert {row.label: row.verdict for row in found.rows} == {"long": "better", "plain": "baseline"}
            page = (tmp_path / "out" / "comparison.html").read_text()
            assert "<h2>Worst cases" in page
            assert "Validation over the epochs" in page
        (best,) = leaderboard(uri=uri)
        assert best.entry.label == "long"
        assert best.commands[0].startswith("mlflow artifacts download")
