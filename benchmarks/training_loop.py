"""Claim: a bundle trains at 0.92 of the speed of its network alone, and at twice that of a loop of MONAI's parts.

Within an epoch, and compiled, as `compile: auto` has it for every job that is long enough: validation, checkpoints and
the compiling itself are not in it; at the end of a training a line tells what they took.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from math import pi
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import tifffile
import torch
from ignite.engine import Events
from measure import ROUNDS, interleaved, record
from monai.bundle import ConfigWorkflow
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    Rand2DElasticd,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)

from pipeline.losses.weighted import WeightedDiceCELoss
from pipeline.networks.precision import Autocast, fast_layout, number_format

ROOT = Path(__file__).parents[1]
KEYS, MODES = ("image", "label"), ("bilinear", "nearest")
OF_FLOOR, OF_STOCK = 0.92, 2.0
CASES, BLOCK = 8, 2  # images; iterations between two looks at the clock


class Task(NamedTuple):
    """What is trained.

    Args:
        bundle: whose config.
        image: size of the images.
        crop: size of the crops.
        batch: crops in a batch.
        classes: background included.
    """

    bundle: str
    image: tuple[int, ...]
    crop: tuple[int, ...]
    batch: int
    classes: int


TASKS = (
    Task("unet", (384, 384), (256, 256), 8, 2),
    Task("unet3d", (96, 96, 72), (48, 64, 48), 4, 4),
)


class Paused:
    """A trainer in a thread of its own that goes on for one block of iterations at a time."""

    def __init__(self, trainer: SupervisedTrainer) -> None:
        self.go, self.done, self.count, self.is_over = threading.Semaphore(0), threading.Semaphore(0), -1, False
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._wait)
        self.thread = threading.Thread(target=trainer.run, daemon=True)
        self.thread.start()
        self.done.acquire()

    def _wait(self, engine: SupervisedTrainer) -> None:
        self.count += 1
        if self.count % BLOCK == 0:
            self.done.release()
            self.go.acquire()
        if self.is_over:
            raise SystemExit

    def __call__(self) -> None:
        """Train for one block."""
        self.go.release()
        if not self.done.acquire(timeout=600):
            raise SystemExit("the training has stopped")

    def end(self) -> None:
        """Stop the training as a signal does."""
        self.is_over = True
        self.go.release()
        self.thread.join()


def arrays(task: Task) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Noisy images of blocks of the classes, and the blocks."""
    random = np.random.default_rng(0)
    for _ in range(CASES):
        blocks = random.integers(task.classes, size=[length // 24 for length in task.image])
        label = np.kron(blocks, np.ones((24,) * len(task.image))).astype(np.uint8)
        yield (label + random.normal(0, 0.5, label.shape)).astype(np.float32), label


def write_data(task: Task, folder: Path) -> dict[str, Any]:
    """Write the images and their list, and return the settings that name them."""
    cases = []
    for number, pair in enumerate(arrays(task)):
        files = {}
        for key, array in zip(KEYS, pair, strict=True):
            files[key] = f"{key}_{number}" + (".tif" if array.ndim == 2 else ".nii")
            if array.ndim == 2:
                tifffile.imwrite(folder / files[key], array)
            else:
                nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), folder / files[key])
        cases.append({"id": f"case {number}", **files, "fold": int(number < CASES - 1)})
    names = ["background", *(f"class {number}" for number in range(1, task.classes))]
    content = {"name": "benchmark", "description": "blocks", "licence": "CC0-1.0", "source": "benchmarks"}
    content |= {"made_by": "benchmarks/training_loop.py", "spatial_dims": len(task.image), "label_kind": "classes"}
    content |= {"classes": names, "channels": ["intensity"], "cases": cases}
    (folder / "list.json").write_text(json.dumps(content))
    return {"data_list": str(folder / "list.json"), "dataset_dir": str(folder), "class_names": names}


def workflow_of(task: Task, folder: Path, **overrides: Any) -> ConfigWorkflow:
    """The bundle as a user runs it, in an epoch that does not end."""
    options = {
        "bundle_root": str(ROOT / "bundles" / task.bundle),
        "output_dir": str(folder / "runs"),
        "mlflow#uri": f"sqlite:///{folder}/mlflow.db",
        "crop_size": list(task.crop),
        "batch_size": task.batch,
        "crops_per_case": 10_000,
        "compile": True,
        **write_data(task, folder),
        **overrides,
    }
    file = str(ROOT / "bundles" / task.bundle / "configs" / "train.json")
    workflow = ConfigWorkflow(file, workflow_type="training", run_id="training", logging_file=False, **options)
    workflow.initialize()
    return workflow


def floor(task: Task, network: torch.nn.Module) -> Callable[[], None]:
    """Forward pass, loss and backward pass of the compiled network on tensors that stay the same."""
    made = Autocast(deepcopy(network), number_format("auto", "cpu"), fast_layout(network), compiled=True).train()
    image, loss = torch.randn(task.batch, 1, *task.crop), WeightedDiceCELoss()
    label = torch.randint(task.classes, (task.batch, 1, *task.crop)).float()

    def run() -> None:
        for _ in range(BLOCK):
            loss(made(image), label).backward()
            made.zero_grad(set_to_none=True)

    return run


def stock(task: Task, network: torch.nn.Module) -> SupervisedTrainer:
    """MONAI's trainer, loader, cache, transforms and loss, with the same ranges; float32, as MONAI trains on a CPU."""
    data = [{key: array[None] for key, array in zip(KEYS, pair, strict=True)} for pair in arrays(task)]
    transforms = Compose([RandSpatialCropd(KEYS, task.crop, random_size=False), *monai_augmentation(len(task.image))])
    dataset = CacheDataset(data, transforms, progress=False)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**6)
    network = deepcopy(network)
    return SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(dataset, batch_size=task.batch, sampler=sampler),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.002, weight_decay=0.0001),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        decollate=False,
    )


def monai_augmentation(dims: int) -> list[RandomizableTransform]:
    """What the bundles draw, with MONAI's transforms; the deformation is of the crop alone, as is fastest."""
    shared: dict[str, Any] = {"prob": 1.0, "mode": MODES, "padding_mode": "reflection"}
    if dims == 2:
        affine: dict[str, Any] = {"rotate_range": pi, "scale_range": (-0.2, 0.25)}
        elastic = Rand2DElasticd(KEYS, spacing=(128, 128), magnitude_range=(10, 10), **affine, **shared)
    else:
        affine = {"rotate_range": (pi / 12,) * 3, "scale_range": (-0.2, 0.25)}
        elastic = Rand3DElasticd(KEYS, sigma_range=(5, 7), magnitude_range=(50, 150), **affine, **shared)
    return [
        elastic,
        *(RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(dims)),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", prob=0.5, factors=0.2),
        RandShiftIntensityd("image", prob=0.5, offsets=0.2),
        RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.2, 0.4)),
        RandGaussianNoised("image", prob=0.3, std=0.1),
    ]


def main() -> None:
    """Print the table, and write the figures to `--output`; on all threads that torch takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="blocks of iterations of each candidate")
    parser.add_argument("--workers", type=int, default=0, help="of the bundle's loader")
    parser.add_argument("--task", choices=[task.bundle for task in TASKS], help="one of the two alone")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # else the trainings would say how they are ended
    print(f"{'samples/s':36} {'alone':>8} {'bundle':>8} {'MONAI':>8} {'of alone':>9} {'of MONAI':>9}")
    for task in TASKS:
        if given.task in (None, task.bundle):
            measure(task, given.rounds, given.workers, given.output)


def measure(task: Task, rounds: int, workers: int, output: Path | None) -> None:
    """Measure one task: print its row and keep its figures."""
    with tempfile.TemporaryDirectory() as folder:
        workflow = workflow_of(task, Path(folder), num_workers=workers)
        network = workflow.parser.get_parsed_content("network_def")
        theirs, ours = Paused(stock(task, network)), Paused(workflow.trainer)
        times = interleaved({"floor": floor(task, network), "stock": theirs, "ours": ours}, rounds)
        ours.end()
        theirs.end()
    name = f"{'x'.join(map(str, task.crop))}, batch {task.batch}"
    of_floor, of_stock = times["floor"] / times["ours"], times["stock"] / times["ours"]
    speeds = [1e3 * BLOCK * task.batch / times[name] for name in ("floor", "ours", "stock")]
    print(f"{name:36} {speeds[0]:8.1f} {speeds[1]:8.1f} {speeds[2]:8.1f} {of_floor:9.2f} {of_stock:9.2f}", flush=True)
    record(output, f"training, {name}, beside the network alone", of_floor, OF_FLOOR, "of its speed")
    record(output, f"training, {name}, beside MONAI", of_stock, OF_STOCK)


if __name__ == "__main__":
    main()
