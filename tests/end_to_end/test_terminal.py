"""What a user reads in the terminal: each thing once, and nothing that says nothing."""

import os
import signal
import subprocess
import time

import pytest
from discs import UNET, small_training
from run_files import mlflow_run

pytestmark = pytest.mark.slow  # each test is a command of its own, whose imports alone take seconds


@pytest.fixture
def command(bundle_command, discs, tmp_path):
    """Return a function that gives the command of a small training."""

    def words(**overrides):
        options = {**small_training(discs), "run_name": "a", "output_dir": str(tmp_path / "runs"), **overrides}
        pairs = [item for key, value in options.items() for item in (f"--{key}", str(value))]
        return [*bundle_command, "training", "--config_file", str(UNET / "configs" / "train.json"), *pairs]

    return words


@pytest.fixture(autouse=True)
def _store_in_the_folder(monkeypatch, tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def test_a_training_without_a_problem_warns_of_none(command, tmp_path):
    result = subprocess.run(command(), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    for word in ("Warning", "WARNING", "warn(", "No complete tensor found", "Traceback"):
        assert word not in result.stdout + result.stderr
    assert mlflow_run(tmp_path, tmp_path / "runs" / "a")[1].info.status == "FINISHED"


def test_a_mistake_that_shows_in_training_is_said_once(command, tmp_path):
    words = command(**{"loss#class_weight": "$[float('nan'), 1.0]"})
    result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr.count("the loss is nan") == 1, result.stderr
    assert result.stderr.count("error: case 'disc_") == 1
    assert "Traceback" not in result.stderr


# A shell shows both as 128 and the signal's number: the end by SIGINT itself as 130, and 143.
@pytest.mark.parametrize(
    ("number", "code", "who"), [(signal.SIGINT, -signal.SIGINT, "the user"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_stopped_training_says_how_to_continue(command, tmp_path, number, code, who):
    process = subprocess.Popen(
        command(epochs=3000), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / "a" / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    said = [line for line in errors.splitlines() if "stopped by" in line]
    assert len(said) == 1, errors
    assert said[0].endswith(f"stopped by {who}; continue with --resume true --run_name a")
    assert mlflow_run(tmp_path, tmp_path / "runs" / "a")[1].info.status == "KILLED"
