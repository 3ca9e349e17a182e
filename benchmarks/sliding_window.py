"""Claim: a label map made in slabs takes less time and memory beside the network than MONAI's inferer and an argmax."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from measure import interleaved, output_argument, peak_memory, record
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd

# The number of classes, and how many times less memory is asked for: of a short volume, most planes are held.
VOLUMES = {(512, 512, 160): (14, 3.0), (256, 256, 128): (2, 1.0)}
WINDOW = {"roi_size": (96, 96, 96), "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
CANDIDATES = ("nothing", "ours", "monai")  # nothing: what the imports and the image take by themselves
FASTER = 1.3


def image(size: tuple[int, ...]) -> torch.Tensor:
    """A volume of noise, (1, *size)."""
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


class OfOneVoxel:
    """A network of one pass, so that what is beside the networks is seen: for x = 0 to 1, classes 0 to K - 1."""

    def __init__(self, classes: int) -> None:
        self.centres = torch.linspace(0, 1, classes).reshape(-1, 1, 1, 1)
        self.logits = torch.empty(0)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, *roi) of windows (N, 1, *roi): -(x - c)^2 + x^2, in memory that is used again."""
        shape = (len(windows), len(self.centres), *windows.shape[2:])
        if self.logits.shape != shape:
            self.logits = torch.empty(shape)
        return torch.addcmul(-(self.centres**2), 2 * self.centres, windows, out=self.logits)


@torch.no_grad()
def labels(by: str, volume: torch.Tensor, classes: int) -> torch.Tensor | None:
    """Return the label map (1, *size) by one of `CANDIDATES`."""
    network = OfOneVoxel(classes)
    if by == "monai":
        return SlidingWindowInferer(**WINDOW)(volume[None], network)[0].argmax(0, keepdim=True)
    if by == "ours":
        item = {"image": MetaTensor(volume)}
        return predict_labels(item, network, SlidingWindow(**WINDOW), [ClassesFromLogitsd("pred")], "cpu")["pred"]
    return None


def once(by: str, size: tuple[int, ...], classes: int) -> None:
    """Make one label map in a process whose memory is measured."""
    torch.set_num_threads(1)
    labels(by, image(size), classes)


def main() -> None:
    """Print the table, and write the figures to `--output`; all on one thread."""
    output = output_argument(__doc__)
    torch.set_num_threads(1)
    print(f"{'volume':36} {'slabs':>8} {'MONAI':>8} {'ratio':>6} {'goal':>5}")
    for size, (classes, less) in VOLUMES.items():
        name, volume, made = f"{'x'.join(map(str, size))}, {classes} classes", image(size), {}

        def run(by: str, volume: torch.Tensor = volume, classes: int = classes, made: dict = made) -> None:
            made[by] = torch.as_tensor(labels(by, volume, classes)).to(torch.uint8)

        times = interleaved({by: partial(run, by) for by in ("ours", "monai")}, rounds=1)
        differing = int((made["ours"] != made["monai"]).sum())
        if differing > 1e-6 * volume.numel():  # where two classes are equal but for rounding
            raise SystemExit(f"{name}: {differing} labels differ")
        report(output, name, "time", times["ours"] / 1e3, times["monai"] / 1e3, FASTER)
        code = f"import sliding_window; sliding_window.once('{{}}', {size}, {classes})"
        nothing, ours, monai = (peak_memory(code.format(by)) for by in CANDIDATES)
        report(output, name, "memory", ours - nothing, monai - nothing, less)


def report(output: Path | None, name: str, quantity: str, ours: float, monai: float, at_least: float) -> None:
    """Print one line of the table, and keep its ratio."""
    unit, words = {"time": ("s", "times faster"), "memory": ("MiB", "times less memory")}[quantity]
    print(f"{name + ', ' + unit:36} {ours:8.1f} {monai:8.1f} {monai / ours:6.1f} {at_least:5}", flush=True)
    record(output, f"sliding window {quantity}, {name}", monai / ours, at_least, words)


if __name__ == "__main__":
    main()
