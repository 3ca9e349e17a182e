"""Schedulers and workers of Dask, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUIET = {
    "DASK_LOGGING__DISTRIBUTED": "critical",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "cluster")]),
}


def _start(arguments, folder, **environment):
    with open(folder / "dask.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            cwd=folder,
            env={**os.environ, **QUIET, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _end(process):
    """Kill a process and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def scheduler(folder, **environment):
    """Start a scheduler at a free port; yield its process, which knows its `address`."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = _start(["scheduler", *options], folder, **environment)
    try:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text().endswith("}")):
            assert process.poll() is None, (folder / "dask.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.address = json.loads(file.read_text())["address"]
        yield process
    finally:
        _end(process)


@contextmanager
def worker(address, folder, *options, **environment):
    """Start a worker, by default with a nanny that starts it again."""
    places = ["--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(folder)]
    process = _start(["worker", address, "--nthreads", "1", *places, *options], folder, **environment)
    try:
        yield process
    finally:
        _end(process)


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
