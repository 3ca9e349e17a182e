"""How benchmarks measure: candidates that take turns, the peak memory of a process, and the list of the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

ROUNDS = 5

# A process inherits the peak of the one that starts it, and RUSAGE_CHILDREN is the largest of all children so far:
# so a small process starts each measured one, its only child.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median milliseconds of each candidate; they take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 1):
        for name, run in candidates.items():
            start = perf_counter()
            run()
            if round_number:  # the first round warms up
                times[name].append(1e3 * (perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def peak_memory(code: str) -> float:
    """Return the MiB that a fresh Python holds at its peak while it runs `code`, which may import any benchmark."""
    launch, folder = [sys.executable, "-c", LAUNCHER, code], Path(__file__).parent
    peak = int(subprocess.run(launch, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes on macOS, else KiB


def record(
    output: Path | None,
    name: str,
    ratio: float,
    at_least: float | None,
    unit: str = "times faster",
    at_most: float | None = None,
    curve: dict[str, list[float]] | None = None,
) -> None:
    """Write one figure to the JSON list in `output`, in the place of an earlier one of the same name.

    Args:
        output: the list; None writes nothing.
        name: of the figure.
        ratio: what was measured.
        at_least: the goal, or None where nothing is promised or less is better.
        unit: what the ratio is.
        at_most: the goal where less is better.
        curve: two lists of equal length by what they are, to be drawn: {"voxels": [...], "seconds": [...]}.
    """
    if output is None:
        return
    figures = {figure["name"]: figure for figure in json.loads(output.read_text())} if output.exists() else {}
    figures[name] = {
        "name": name,
        "ratio": float(f"{ratio:.3g}"),
        "at_least": at_least,
        "unit": unit,
        "command": command(),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    goal = {} if at_most is None else {"at_most": at_most}
    figures[name] |= goal if curve is None else {**goal, "curve": curve}
    output.write_text(json.dumps(list(figures.values()), indent=2) + "\n")


def command() -> str:
    """Return how this benchmark was called, without the places of its files."""
    words, places = sys.argv[1:], {"--output", "--data"}
    told = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & places]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *told])


def machine() -> str:
    """Return the processor's name and the number of its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return f"{models[0].split(': ')[1] if models else platform.machine()}, {os.cpu_count()} cores"


def output_argument(description: str | None) -> Path | None:
    """Read `--output` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    return parser.parse_args().output
