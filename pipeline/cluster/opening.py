"""From a command's words to a client of Dask: of a scheduler, of processes on this machine, of a cluster's queue."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

logger = logging.getLogger(__name__)

CONNECTED_WITHIN = 10.0  # seconds
COMES_WITHIN = 120.0  # seconds for a process of this machine to be there again


@dataclass(frozen=True)
class Place:
    """Where work is done; exactly one of the three is given.

    Args:
        scheduler: address of one that runs, "tcp://host:8786".
        workers: processes to start on this machine, for as long as the work takes.
        jobqueue: a YAML file that tells how to start workers as jobs; see `pipeline.cluster.job_queue`.
    """

    scheduler: str | None = None
    workers: int | None = None
    jobqueue: str | None = None

    def __post_init__(self) -> None:
        given = {f"--{name}": value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            reason = f"{' and '.join(given) or 'none of them'} {'are' if given else 'is'} given"
            raise InputError(reason, remedy="give one of --scheduler, --workers and --jobqueue")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} workers", remedy="give a whole number, 1 or more")

    @property
    def patience(self) -> float | None:
        """How many seconds to wait while there is no worker; None for ever, as others may start some."""
        return None if self.workers is None else COMES_WITHIN


@contextmanager
def opened(place: Place) -> Iterator[Client]:
    """Connect to a place's scheduler, or start one with its workers and stop them at the end; log the dashboard."""
    if importlib.util.find_spec("distributed") is None:
        raise InputError("Dask is not installed", remedy='pip install "unet-pipeline[scale]"')
    with _quiet(), _cluster(place) as address, _connected(address) as client:
        if client.dashboard_link and importlib.util.find_spec("bokeh"):
            logger.info("dashboard of the workers: %s", client.dashboard_link)
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask's own log, of several lines for each worker, tell of nothing less than what is broken."""
    import distributed  # noqa: F401  # it sets levels of its own when it is imported

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(max(one.level, logging.CRITICAL))
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextmanager
def _cluster(place: Place) -> Iterator[Any]:
    if place.scheduler is not None:
        yield place.scheduler
        return
    if place.jobqueue is not None:
        from pipeline.cluster.job_queue import job_cluster

        cluster: SpecCluster = job_cluster(place.jobqueue)
    else:
        cluster = _local_cluster(place.workers or 1)
    try:
        yield cluster
    finally:
        cluster.close(timeout=CONNECTED_WITHIN)


@contextmanager
def _connected(address: Any) -> Iterator[Client]:
    from distributed import Client

    try:
        if isinstance(address, str):
            asyncio.run(asyncio.wait_for(_knock(address), CONNECTED_WITHIN))
        client = Client(address, timeout=CONNECTED_WITHIN, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        if not isinstance(address, str):
            reason = f"the workers cannot be started ({type(error).__name__}: {error})"
            raise InputError(reason, remedy="see above what their start came to") from error
        remedy = "start one there (dask scheduler), or correct the address: tcp://host:8786"
        raise InputError(f"no Dask scheduler answers at {address}", remedy=remedy) from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECTED_WITHIN)


async def _knock(address: str) -> None:
    """Exchange first words with a scheduler; Dask's client would wait for ever for those of another program."""
    from distributed import Security
    from distributed.comm import connect

    comm = await connect(address, timeout=CONNECTED_WITHIN, **Security().get_connection_args("client"))
    await comm.close()


def _local_cluster(workers: int) -> SpecCluster:
    """Start processes on this machine; one that dies is started again by its nanny."""
    from distributed import Nanny, Scheduler, SpecCluster

    address = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    # Memory is watched by the pipeline itself, which leaves no case between a pause and a kill.
    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR}
    spec = {
        number: {"cls": Nanny, "options": options | {"env": share_of(number, workers)}} for number in range(workers)
    }
    return SpecCluster(workers=spec, scheduler={"cls": Scheduler, "options": address}, silence_logs=logging.ERROR)


def share_of(number: int, workers: int) -> dict[str, str]:
    """Return the environment of one of several workers of this machine: its share of the cores, and its GPU."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    wanted = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, "OMP_WAIT_POLICY": "PASSIVE"}
    found = {key: os.environ.get(key, value) for key, value in wanted.items()}
    devices = visible_devices(os.environ)
    return found | ({"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {})


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use, without loading torch or waking them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [device for device in listed.split(",") if device]
    try:
        told = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(len(told.stdout.splitlines()))]
