"""What a machine was doing while a run was going on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor


class SystemMetrics:
    """Look at CPU, memory, disk, network and GPU at the start, every few seconds, and at the end.

    MLflow's own loop looks for the first time after an interval, so that a short run would have nothing, and it talks
    to the server itself, so that a dead one would hold up the end of training. Its sensors are used here.

    Args:
        log: takes the figures, as `system/cpu_utilization_percentage`, and the number of the look.
        every: seconds between two looks.
        first: the number of the first look.
    """

    def __init__(self, log: Callable[[dict[str, float], int], None], every: float, first: int = 0) -> None:
        self._log, self._every, self._step = log, every, first
        self._sensors = _sensors()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and no more."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        ended = False
        while not ended:
            self._look()
            ended = self._stop.wait(self._every)
        time.sleep(0.002)  # a store tells looks apart by their milliseconds
        self._look()

    def _look(self) -> None:
        figures = {}
        for sensor in self._sensors:
            sensor.clear_metrics()
            sensor.collect_metrics()
            figures.update(sensor.aggregate_metrics())
        self._log({f"system/{name}": float(value) for name, value in figures.items()}, self._step)
        self._step += 1


def _sensors() -> list[BaseMetricsMonitor]:
    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for gpu in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # there is no such GPU, or no package that reads it
            return [*found, gpu()]
    return found
