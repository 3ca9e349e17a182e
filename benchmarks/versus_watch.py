"""A command under watch: when its first model lies there, the memory of all its processes, and its end in time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil
import torch

EVERY = 0.5  # seconds between two looks


@dataclass(frozen=True)
class Watched:
    """What was seen of a command.

    Args:
        seconds: from its start to its end.
        first_model: seconds until the first model lay there, within half a second; None if none ever did.
        peak: GiB that it held at once with all processes that it started.
        gpu_peak: GiB of the GPU that were taken meanwhile, more than before; None without a GPU.
        failure: why it is of no use; None if it ended well.
    """

    seconds: float
    first_model: float | None
    peak: float
    gpu_peak: float | None
    failure: str | None


def watch(
    command: Sequence[str], folder: Path, limit: float, models: str | None = None, env: Mapping[str, str] | None = None
) -> Watched:
    """Run a command in a session of its own, and end all that it started with it.

    Args:
        command: program and arguments.
        folder: that it works in; its words go to `log.txt` there.
        limit: seconds after which it is killed.
        models: glob below the folder that a usable model answers to.
        env: its environment; None: this one.
    """
    begun, first, peak, gpu_before, gpu_peak = monotonic(), None, 0, gpu_memory(), 0
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while child.poll() is None and monotonic() - begun < limit:
            peak = max(peak, tree_memory(child.pid))
            gpu_peak = max(gpu_peak, gpu_memory() - gpu_before)
            with suppress(subprocess.TimeoutExpired):
                child.wait(EVERY)
            if first is None and models and any(folder.glob(models)):
                first = monotonic() - begun
        seconds, status = monotonic() - begun, child.poll()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # workers, too, that outlive the one who started them
        child.wait()
    failure = None
    if status is None:
        failure = f"killed after {seconds:.0f} s"
    elif status:
        failure = f"ended with status {status}: {last_line(folder / 'log.txt')}"
    on_gpu = gpu_peak / (1 << 30) if torch.cuda.is_available() else None
    return Watched(seconds, first, peak / (1 << 30), on_gpu, failure)


def gpu_memory() -> int:
    """Return the bytes of the GPU that all programs hold, 0 without one."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def tree_memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold; what some of them share counts once (Linux)."""
    try:
        process = psutil.Process(pid)
        return sum(map(_memory, [process, *process.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0


def _memory(process: psutil.Process) -> int:
    try:
        held = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        held = process.memory_info()
    return getattr(held, "pss", held.rss)


def last_line(file: Path, longest: int = 200) -> str:
    """Return the last words of a log, which name the error where there was one."""
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
    return next((line[:longest] for line in reversed(lines) if line), "no word")
