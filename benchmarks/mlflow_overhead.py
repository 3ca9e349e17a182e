"""Logging loss and rate of every iteration takes under 1% of a training loop: processor time of both, all threads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import process_time

import torch
from measure import output_argument, record

from pipeline.losses.weighted import WeightedDiceCELoss
from pipeline.networks.unet import UNet
from pipeline.tracking import Tracking

STEPS = 30
LOGGED = 3000


def training_seconds() -> float:
    """Processor seconds of one iteration of the 2D bundle's network on its batch."""
    network = UNet(channels=(16, 32, 64, 128), norm="batch").to(memory_format=torch.channels_last)
    optimizer, loss = torch.optim.AdamW(network.parameters()), WeightedDiceCELoss()
    image, target = torch.randn(4, 1, 160, 160), (torch.rand(4, 1, 160, 160) > 0.5).float()
    for step in range(STEPS + 3):
        if step == 3:
            start = process_time()
        optimizer.zero_grad()
        loss(network(image), target).backward()
        optimizer.step()
    return (process_time() - start) / STEPS


def logging_seconds(folder: str) -> float:
    """Processor seconds of what one iteration logs, the writing thread and the store included."""
    tracking = Tracking(f"sqlite:///{folder}/mlflow.db", system_metrics_every=0)
    tracking.start("overhead", {})
    start = process_time()
    for step in range(LOGGED):
        tracking.metrics({"train/iteration_loss": 0.5, "train/iteration_rate": 0.001}, step)
    tracking.end()
    return (process_time() - start) / LOGGED


def main() -> None:
    """Print both and their ratio, and record it."""
    output = output_argument(__doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log, train = logging_seconds(folder), training_seconds()
    print(f"an iteration {1e3 * train:.1f} ms, its metrics {1e3 * log:.3f} ms: {100 * log / train:.2f}%")
    if output is not None:
        record(Path(output), "training loop beside its MLflow metrics", train / log, 100)


if __name__ == "__main__":
    main()
