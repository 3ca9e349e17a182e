"""Options that say where the work is done: here, or on the workers of a cluster."""

from __future__ import annotations

import argparse
from typing import Any


def add_place(verb: argparse.ArgumentParser, workers: dict[str, Any]) -> None:
    """Add the options of a verb; `workers` are what argparse is to know of how many processes."""
    verb.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers do it: tcp://host:8786")
    verb.add_argument("--workers", type=int, **workers)
    verb.add_argument("--jobqueue", metavar="FILE", help="YAML: workers as jobs of SLURM, PBS, ... (docs/scaling.md)")


def place_of(scheduler: str | None, workers: int | None, jobqueue: str | None) -> Any:
    """Return where the workers are, None for this process alone."""
    if scheduler is None and workers is None and jobqueue is None:
        return None
    from pipeline.cluster.opening import Place

    return Place(scheduler, workers, jobqueue)
