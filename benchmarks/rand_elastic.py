"""RandElasticd against MONAI's RandAffined and then an elastic transform: one thread, one process, taking turns."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from math import pi
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from monai.transforms import Compose, Rand2DElasticd, Rand3DElasticd, RandAffined

from pipeline.transforms.rand_elastic import RandElasticd

ROUNDS = 9
MODES = {"image": ("bilinear", "linear"), "label": ("nearest", "nearest"), "weight": ("bilinear", "linear")}


def sample(shape: tuple[int, ...], keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """An image, a label of three classes and, if asked for, a weight map."""
    made = {"image": torch.rand(1, *shape), "label": torch.randint(3, (1, *shape)).to(torch.uint8)}
    return {key: made.get(key, torch.rand(1, *shape)) for key in keys}


def fused(keys: tuple[str, ...]) -> Callable:
    """Rotation, scaling and a 3-node elastic deformation in one resampling."""
    modes = tuple(MODES[key][1] for key in keys)
    return RandElasticd(keys, mode=modes, rotation=180.0, scaling=(0.8, 1.25)).set_random_state(0)


def chained(keys: tuple[str, ...], spatial_dims: int) -> Callable:
    """The same ranges with MONAI's transforms, one resampling each; in 2D with the nodes 170 px apart."""
    shared = {"prob": 1.0, "mode": tuple(MODES[key][0] for key in keys), "padding_mode": "reflection"}
    affine = RandAffined(keys, rotate_range=(pi,) * (2 * spatial_dims - 3), scale_range=(-0.2, 0.25), **shared)
    if spatial_dims == 2:
        elastic = Rand2DElasticd(keys, spacing=(170, 170), magnitude_range=(10, 10), **shared)
    else:
        elastic = Rand3DElasticd(keys, sigma_range=(5, 8), magnitude_range=(100, 200), **shared)
    return Compose([affine, elastic]).set_random_state(0)


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


def record(output: Path | None, name: str, ratio: float, at_least: float) -> None:
    """Append one figure to the JSON list in `output`."""
    if output is None:
        return
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    entry = {
        "name": name,
        "ratio": round(ratio, 1),
        "at_least": at_least,
        "unit": "times faster",
        "command": f"python benchmarks/{Path(sys.argv[0]).name}",
        "machine": f"{models[0].split(': ')[1] if models else platform.machine()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
    }
    figures = json.loads(output.read_text()) if output.exists() else []
    output.write_text(json.dumps([*figures, entry], indent=2) + "\n")


def output_argument(description: str | None) -> Path | None:
    """Read `--output` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, help="JSON file to append the figures to")
    return parser.parse_args().output


def main() -> None:
    """Print the table, and append to `--output`."""
    output = output_argument(__doc__)
    torch.set_num_threads(1)
    print(f"{'sample':36} {'fused ms':>9} {'MONAI ms':>9} {'ratio':>6} {'goal':>5}")
    for shape, keys, at_least in [
        ((512, 512), ("image", "label", "weight"), 15),
        ((128, 128, 128), ("image", "label"), 12),
    ]:
        data, ours, monai = sample(shape, keys), fused(keys), chained(keys, len(shape))
        times = interleaved({"ours": lambda: ours(data), "monai": lambda: monai(data)})  # noqa: B023
        name, ratio = f"{'x'.join(map(str, shape))}: {' + '.join(keys)}", times["monai"] / times["ours"]
        print(f"{name:36} {times['ours']:9.1f} {times['monai']:9.1f} {ratio:6.1f} {at_least:5}")
        record(output, f"augmentation, {name}", ratio, at_least)


if __name__ == "__main__":
    main()
