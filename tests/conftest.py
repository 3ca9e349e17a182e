"""How the tests run a bundle: in this process, from a folder of their own."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import matplotlib
import pytest
import torch
from discs import UNET, small_training, write_discs
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigWorkflow
from servers import MLflowServer

from pipeline import figures
from pipeline.errors import find_input_error
from pipeline.mlflow_store import open_store


def pytest_configure():
    # Two test processes on two cores: one thread each, or they wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    # What runs in a shell's background, or under nohup, starts deaf to the signals that some tests send.
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What is logged may hold a file's name that is no UTF-8, which a test process could not send on."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Checks of data are remembered for this session only, and not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else matplotlib lists its fonts anew
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _torch_where_nothing_is_said():
    """On a processor without bfloat16 OpenVINO would predict by itself: other machines, other bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.execution.is_installed", lambda package: False)
        yield


@pytest.fixture(scope="session")
def discs(tmp_path_factory) -> Path:
    """A folder with images/, labels/ and discs.json; nobody writes to it."""
    folder = tmp_path_factory.mktemp("discs")
    write_discs(folder)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store whose tables are made, which takes seconds: tests that are not about that copy it."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{file}", "discs")
    return file


@pytest.fixture
def mlflow_server(tmp_path, empty_store, monkeypatch):
    """A tracking server that a test starts, and may kill and start again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else MLflow looks again after a minute only
    shutil.copyfile(empty_store, tmp_path / "server.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/server.db")
    client.rename_experiment(client.get_experiment_by_name("discs").experiment_id, "of the proxy's own making")
    made = MLflowServer(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def run_bundle(discs, empty_store, tmp_path, monkeypatch):
    """Return `run(run_id, *files, **overrides)`, which runs a bundle and returns its workflow.

    Relative names in `files` are configs of bundles/unet. Training and evaluation are small unless overridden. What
    MONAI wraps around a user's mistake is taken off. Pictures are empty files: drawing takes a quarter of a small
    training, and `trained` has them all.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "save", lambda figure, file, dpi=0: Path(file).write_bytes(b""))
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def run(run_id, *files, **overrides):
        paths = [str(file) if Path(file).is_absolute() else str(UNET / "configs" / file) for file in files]
        defaults = small_training(discs) if Path(paths[0]).name == "train.json" else {}
        if not Path(paths[0]).is_relative_to(UNET):
            defaults = {}  # a run folder says all by itself
        kind = "training" if run_id == "training" else "inference"
        options = {**defaults, **overrides}
        try:
            workflow = ConfigWorkflow(paths, workflow_type=kind, run_id=run_id, logging_file=False, **options)
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        except RuntimeError as error:
            raise (find_input_error(error) or error) from None
        return workflow

    return run


@pytest.fixture
def only_run(tmp_path):
    """Return a function that gives the one run folder below `runs`."""

    def find(folder="runs"):
        (found,) = (tmp_path / folder).iterdir()
        return found

    return find


@pytest.fixture(scope="session")
def trained(discs, empty_store, tmp_path_factory) -> Path:
    """The folder of a finished small run, which nobody changes."""
    folder = tmp_path_factory.mktemp("trained")
    options = {
        **small_training(discs),
        "output_dir": str(folder),
        "run_name": "discs",
        "epochs": 12,
        "learning_rate": 0.02,
    }
    shutil.copyfile(empty_store, folder / "mlflow.db")
    options["mlflow#uri"] = f"sqlite:///{folder}/mlflow.db"
    file = str(UNET / "configs" / "train.json")
    workflow = ConfigWorkflow(file, workflow_type="training", run_id="training", logging_file=False, **options)
    workflow.initialize()
    workflow.run()
    return folder / "discs"


@pytest.fixture
def bundle_command():
    """Return the user's own command line, to which arguments are added."""
    return [sys.executable, "-m", "monai.bundle", "run"]
