"""Claim: nothing grows with size: the cost of a voxel, of a case of a folder, of a training step beside its store."""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from compare import copy_rows
from measure import interleaved, record
from mlflow.entities import Metric
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import nn

from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.mlflow_store import open_store
from pipeline.predict import FolderPredictor
from pipeline.tracking import Tracking
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged

EDGES, LARGE_EDGES = (128, 256, 384, 512), (128, 256, 384, 512, 640, 768)
CASES, RUNS = (10, 100, 1000), (10, 100, 1000)
STEPS = 2000  # that are logged to a store at a time
ROUNDS = 5
FLAT = 1.15  # the largest cost over the smallest

Curve = dict[str, list[float]]


def tiny_network() -> nn.Module:
    """One convolution of a voxel: what is measured is all else."""
    torch.manual_seed(0)
    return nn.Conv3d(1, 2, 1).eval()


def cost_of_a_voxel(edges: Sequence[int]) -> Curve:
    """Return nanoseconds per voxel of cubes, of windows that do not overlap, so that each voxel is seen once."""
    inferer, network = SlidingWindow(roi_size=(64, 64, 64), sw_batch_size=4, overlap=0.0), tiny_network()
    volumes = {edge: torch.rand(1, edge, edge, edge, generator=torch.Generator().manual_seed(0)) for edge in edges}

    def label(edge: int) -> None:
        # Small cubes come in numbers, so that each measurement takes a second or so.
        for _ in range(max(1, (edges[-1] // edge) ** 3 // 4)):
            item = {"image": MetaTensor(volumes[edge])}
            predict_labels(item, network, inferer, [ClassesFromLogitsd("pred")], "cpu")

    taken = medians({edge: partial(label, edge) for edge in edges})
    voxels = {edge: max(1, (edges[-1] // edge) ** 3 // 4) * edge**3 for edge in edges}
    return {"voxels along each side": list(edges), "nanoseconds per voxel": [1e9 * taken[e] / voxels[e] for e in edges]}


def medians(calls: dict[int, Callable[[], object]]) -> dict[int, float]:
    """Return the median seconds of each call; they take turns, after one round that warms up."""
    named = interleaved({str(size): call for size, call in calls.items()}, ROUNDS)
    return {size: named[str(size)] / 1e3 for size in calls}


def cost_of_a_case(counts: Sequence[int]) -> Curve:
    """Return milliseconds per volume of a folder of so many, from load to saved file, the end of the batch included."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.save(tiny_network().state_dict(), folder / "model.pt")
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for number in range(max(counts)):
            voxels = rng.integers(0, 1000, (32, 32, 32), dtype=np.int16)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "images" / f"case_{number:04}.nii.gz")
        files = sorted((folder / "images").iterdir())
        again = {count: max(counts) // count // 4 or 1 for count in counts}

        def predict(count: int) -> None:
            for number in range(again[count]):
                predict_files(folder, files[:count], f"{count}-{number}")

        taken = medians({count: partial(predict, count) for count in counts})
    costs = [1e3 * taken[count] / again[count] / count for count in counts]
    return {"cases of the folder": list(counts), "milliseconds per case": costs}


def predict_files(folder: Path, files: Sequence[Path], name: str) -> None:
    """Predict files into a folder of this name."""
    (folder / f"{name}.txt").write_text("\n".join(map(str, files)))
    predictor = FolderPredictor(
        str(folder / f"{name}.txt"),
        str(folder / name),
        tiny_network(),
        str(folder / "model.pt"),
        Compose([StrictLoadImaged("image", spatial_dims=3)]),
        SlidingWindow(roi_size=(32, 32, 32), sw_batch_size=4, overlap=0.0),
        Compose([ClassesFromLogitsd("pred"), AtomicSaveImaged("pred", str(folder / name), "labels")]),
        spatial_dims=3,
        class_names=("background", "thing"),
    )
    predictor.run()


def cost_of_a_step(counts: Sequence[int]) -> Curve:
    """Return microseconds that a run needs to log a step to a SQLite store of so many runs, all of it written."""
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        runs = {}
        for count in counts:
            uri = f"sqlite:///{scratch}/{count}.db"
            fill(uri, count)
            folder = Path(scratch) / f"run-{count}"
            folder.mkdir()
            runs[count] = Tracking(uri, "cells", system_metrics_every=0)
            runs[count].start("measured", {}, params={"a": 1}, folder=folder)
        numbers = itertools.count()
        taken = medians({count: partial(log_steps, run, numbers) for count, run in runs.items()})
        for run in runs.values():
            run.end()
    return {"runs in the store": list(counts), "microseconds per step": [1e6 * taken[c] / STEPS for c in counts]}


def log_steps(tracking: Tracking, numbers: Iterator[int]) -> None:
    """Log as a training does, at steps that no earlier one had, and wait until all is in the store."""
    first = STEPS * next(numbers)
    for step in range(first, first + STEPS):
        tracking.metrics({"train/loss": 1 / (step + 1), "train/learning_rate": 0.001}, step)
    tracking.flush()


def fill(uri: str, count: int) -> None:
    """Make a store of runs with 500 values each."""
    import sqlite3

    client, experiment = open_store(uri, "cells")
    first = client.create_run(experiment).info.run_id
    client.log_batch(first, metrics=[Metric("train/loss", 1 / (step + 1), 0, step) for step in range(500)])
    client.set_terminated(first)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        for number in range(1, count):
            for table in ("runs", "latest_metrics", "metrics", "tags"):
                copy_rows(database, table, first, f"{number:032x}")


def main() -> None:
    """Print the tables, and write the figures to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--large", action="store_true", help=f"cubes of up to {LARGE_EDGES[-1]} voxels a side")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    curves = {
        "cost of a voxel": cost_of_a_voxel(LARGE_EDGES if options.large else EDGES),
        "cost of a case": cost_of_a_case(CASES),
        "cost of a step": cost_of_a_step(RUNS),
    }
    for name, curve in curves.items():
        (by, sizes), (what, costs) = curve.items()
        print(f"\n{by:>26} {what:>24}")
        for size, cost in zip(sizes, costs, strict=True):
            print(f"{size:26} {cost:24.3g}")
        ratio = max(costs) / min(costs)
        print(f"the largest is {ratio:.2f} times the smallest; goal {FLAT}", flush=True)
        record(options.output, name, ratio, None, "largest over smallest", at_most=FLAT, curve=curve)


if __name__ == "__main__":
    main()
