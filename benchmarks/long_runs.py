"""Claim: a long run costs at its end what it costs in its middle: memory, open files, time of an epoch or case."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import psutil
import tifffile
import torch
from flat import predict_files
from ignite.engine import Events
from measure import record
from monai.bundle import ConfigWorkflow
from torch import nn

from pipeline.handlers.progress_bar import ProgressBar
from pipeline.mlflow_writer import MLflowWriter

BUNDLE = Path(__file__).parents[1] / "bundles" / "unet"
SHORT, FULL = 320, 2000  # epochs of the training, and volumes of the batch
LOOKS = 40  # at memory and open files
GREW = 1.02  # the most that the second half of a run may add to memory
SLOWER = 1.25  # the most that the last quarter may take, beside the second one


class Watch:
    """Look now and then at what this process holds, and at each step at the time that it took of the processor.

    Args:
        steps: epochs or cases to come.
    """

    def __init__(self, steps: int) -> None:
        self.every, self.process = steps // LOOKS, psutil.Process()
        self.at: list[int] = []
        self.mebibytes: list[float] = []
        self.files: list[int] = []
        self.seconds: list[float] = []
        self._begun = time.process_time()

    def step(self) -> None:
        """Note the end of an epoch or a case; looking is not in its time."""
        self.seconds.append(time.process_time() - self._begun)
        if len(self.seconds) % self.every == 0:
            gc.collect()
            self.at.append(len(self.seconds))
            self.mebibytes.append(self.process.memory_info().rss / 2**20)
            self.files.append(self.process.num_fds())
        self._begun = time.process_time()


def grown(at: Sequence[int], held: Sequence[float]) -> float:
    """Return how many times what a run held in its middle it holds at its end, by a line through its second half."""
    half = len(at) // 2
    slope, start = np.polyfit(at[half:], held[half:], 1)
    return float((start + slope * at[-1]) / (start + slope * at[half]))


def slowed(seconds: Sequence[float]) -> float:
    """Return the median of the last quarter over that of the second one, which begins when all is warm."""
    quarter = len(seconds) // 4
    return median(seconds[-quarter:]) / median(seconds[quarter : 2 * quarter])


def quarters(values: Sequence[float]) -> list[float]:
    """Return the median of each quarter."""
    return [median(part) for part in np.array_split(np.asarray(values), 4)]


def write_pictures(folder: Path) -> dict[str, Any]:
    """Write three pictures of 8 x 8 pixels, and return what lets the 2D bundle train on them."""
    rng, cases = np.random.default_rng(0), []
    for number in range(3):
        labels = np.zeros((8, 8), np.uint8)
        labels[2:6, 1 + number : 5 + number] = 1
        tifffile.imwrite(folder / f"image_{number}.tif", (100 * labels + rng.normal(50, 9, (8, 8))).astype(np.uint8))
        tifffile.imwrite(folder / f"label_{number}.tif", labels)
        cases.append({"id": str(number), "image": f"image_{number}.tif", "label": f"label_{number}.tif"})
    content: dict[str, Any] = {"name": "tiny", "description": "squares", "licence": "CC0-1.0", "source": "benchmark"}
    content |= {"made_by": "benchmark", "spatial_dims": 2, "label_kind": "classes", "channels": ["grey"]}
    content |= {"classes": ["background", "cell"]}
    content["cases"] = [case | {"fold": int(case["id"] != "0")} for case in cases]
    (folder / "tiny.json").write_text(json.dumps(content))
    return {
        "data_list": str(folder / "tiny.json"),
        "dataset_dir": str(folder),
        "output_dir": str(folder / "runs"),
        "bundle_root": str(BUNDLE),
        "device": "cpu",
        "network_def#channels": [4, 8],
        "crop_size": [8, 8],
        "batch_size": 2,
        "crops_per_case": 1,
    }


def train(epochs: int) -> tuple[Watch, list[float]]:
    """Train the 2D bundle with all its handlers; return what it held, and the seconds of each entry in the store."""
    taken: list[float] = []
    watch, attach = Watch(epochs), ProgressBar.attach

    def watched(last_handler: ProgressBar, engine: Any) -> None:
        attach(last_handler, engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, watch.step)

    with (
        tempfile.TemporaryDirectory() as scratch,
        chdir(scratch),
        patch.object(MLflowWriter, "write", timed(taken)),
        patch.object(ProgressBar, "attach", watched),
    ):
        options = write_pictures(Path(scratch)) | {"epochs": epochs, "mlflow#uri": f"sqlite:///{scratch}/mlflow.db"}
        file = str(BUNDLE / "configs" / "train.json")
        workflow = ConfigWorkflow(file, workflow_type="training", logging_file=False, **options)
        workflow.initialize()
        workflow.run()
    return watch, taken


def timed(taken: list[float]) -> Callable[..., Any]:
    """Return `MLflowWriter.write` as it notes the seconds of the processor that each entry of metrics took."""
    write = MLflowWriter.write

    def noting(writer: MLflowWriter, contents: Sequence[Any]) -> Any:
        begun = time.thread_time()
        facts = write(writer, contents)
        if contents[0]["kind"] == "metrics":
            taken.append((time.thread_time() - begun) / len(contents))
        return facts

    return noting


def predict(cases: int) -> Watch:
    """Predict so many volumes of 16 x 16 x 16 voxels, and return what it held."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.save(nn.Conv3d(1, 2, 1).state_dict(), folder / "model.pt")
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for number in range(cases):
            voxels = rng.integers(0, 1000, (16, 16, 16), dtype=np.int16)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "images" / f"case_{number:04}.nii.gz")
        watch = Watch(cases)
        replace = os.replace

        def watched(source: Any, target: Any) -> None:
            replace(source, target)
            if str(target).endswith(".nii.gz"):
                watch.step()

        with patch.object(os, "replace", watched):
            predict_files(folder, sorted((folder / "images").iterdir()), "labels")
    return watch


def report(output: Path | None, what: str, unit: str, watch: Watch) -> None:
    """Print and keep what a run held and how it slowed down."""
    print(f"\n{what}: {unit}, MiB, open files")
    for row in list(zip(watch.at, watch.mebibytes, watch.files, strict=True))[LOOKS // 8 - 1 :: LOOKS // 8]:
        print("{:8} {:8.1f} {:5}".format(*row))
    shown = slice(LOOKS // 4 - 1, None, LOOKS // 4)
    for name, measured, held in (("memory", "MiB", watch.mebibytes), ("open files", "open files", watch.files)):
        curve = {unit: list(watch.at[shown]), measured: [round(one, 1) for one in held[shown]]}
        keep(output, f"{name} of {what}", grown(watch.at, held), "end over middle", GREW, curve)
    steps = len(watch.seconds)
    curve = {unit: [steps * part // 4 for part in (1, 2, 3, 4)], "ms": [1e3 * one for one in quarters(watch.seconds)]}
    keep(output, f"time of {what}", slowed(watch.seconds), "last quarter over the second", SLOWER, curve)


def keep(output: Path | None, name: str, ratio: float, unit: str, most: float, curve: dict[str, list[float]]) -> None:
    """Print a figure and write it to the list."""
    print(f"{name}: {ratio:.3f}, goal {most}", flush=True)
    record(output, name, ratio, None, unit, at_most=most, curve=curve)


def main() -> None:
    """Print what a training and a batch hold as they go on, and write the figures to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--full", action="store_true", help=f"{FULL} epochs and volumes instead of {SHORT}")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    count = FULL if options.full else SHORT
    watch, taken = train(count)
    report(options.output, "a long training", "epochs", watch)
    curve = {"epochs": [count * part // 4 for part in (1, 2, 3, 4)], "ms": [1e3 * one for one in quarters(taken)]}
    keep(options.output, "store of a long training", slowed(taken), "last quarter over the second", SLOWER, curve)
    report(options.output, "a long batch", "volumes", predict(count))


if __name__ == "__main__":
    main()
