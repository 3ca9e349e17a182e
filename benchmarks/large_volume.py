"""Claim: a volume of any size is predicted in 4 GiB, and a megavoxel of it takes as long as one of a small volume.

The volumes are OME-Zarr images, of which most chunks are absent: one ball of noise in each 256 x 256 x 256 voxels. What
is constant is predicted once, so that reading, weighing, labelling and writing are most of what is measured. Each
volume is predicted in a process of its own, with mean and deviation of the whole image found first.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from matplotlib.figure import Figure
from measure import peak_memory, record

from pipeline.blockwise.block_predictor import BlockPredictor
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.precision import for_prediction, has_bfloat16
from pipeline.networks.unet import UNet
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.standardise import Standardised
from pipeline.volumes.label_zarr import make_array, scratch_labels
from pipeline.volumes.ome_zarr import open_ome_zarr

SIZES = ((256, 256, 256), (512, 512, 256), (512, 512, 512))
FULL = (*SIZES, (1024, 1024, 1024), (2048, 2048, 1024))
CELL, RADIUS, CHUNK = 256, 24, 128  # voxels; the sizes are whole cells
THREADS = 2
MOST_MEMORY = 4.0  # GiB
SLOWER = 1.25  # the most that a megavoxel of the largest volume may take, beside one of the smallest
PICTURE = Path(__file__).parents[1] / "docs" / "large_volume.png"


def write_volume(folder: Path, shape: tuple[int, ...]) -> None:
    """Write an image of uint8 with one ball in each cell; chunks without a ball are not stored."""
    axes = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
    steps = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    multiscales: list[Any] = [{"name": "balls", "axes": axes, "datasets": datasets}]
    zarr.open_group(str(folder), mode="w", attributes={"ome": {"version": "0.5", "multiscales": multiscales}})
    array = make_array(folder / "0", shape, np.uint8, (CHUNK,) * 3, names=("z", "y", "x"))
    random = np.random.default_rng(0)
    distance = np.linalg.norm(np.indices((2 * RADIUS,) * 3) - RADIUS + 0.5, axis=0)
    for cell in product(*(range(0, n, CELL) for n in shape)):
        corner = [at + int(random.integers(CELL - 2 * RADIUS)) for at in cell]
        ball = np.where(distance < RADIUS, random.integers(100, 200, distance.shape), 0).astype(np.uint8)
        array[tuple(slice(at, at + 2 * RADIUS) for at in corner)] = ball


def predict(folder: str) -> None:
    """Predict the volume in a folder, and leave the seconds that it took beside it."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    network = UNet(3, 1, 2, (4, 8), norm="batch").eval()
    if has_bfloat16("cpu"):  # as a bundle's network is run where it may
        network = for_prediction(network, torch.bfloat16)
    window = SlidingWindow(roi_size=(64, 64, 64), sw_batch_size=4, overlap=0.5, mode="gaussian")
    place = Path(folder)
    begun = time.perf_counter()
    (image,) = open_ome_zarr(place / "image.ome.zarr").images(3)
    labels = scratch_labels(place / "labels.zarr", image.shape, np.uint8)
    predictor = BlockPredictor(
        image,
        labels,
        network,
        window,
        [Standardised("image")],
        [ClassesFromLogitsd("pred")],
        class_names=["background", "ball"],
        records=place / "records",
        identity={"input": "made"},
    )
    row = predictor.run()
    counts = {"seconds": time.perf_counter() - begun, "forwards": predictor.slabs.windows.forwards}  # type: ignore[union-attr]
    counts |= {"blocks": predictor.plan.blocks, "pillars": predictor.plan.pillars, "estimate": predictor.plan.bytes}
    (place / "result.json").write_text(json.dumps(counts | {"ball": row["voxels/ball"]}))


def measured(shape: tuple[int, ...]) -> dict[str, float]:
    """Return what a child process took for a volume of this size."""
    with tempfile.TemporaryDirectory() as scratch:
        write_volume(Path(scratch) / "image.ome.zarr", shape)
        mebibytes = peak_memory(f"import large_volume; large_volume.predict({scratch!r})")
        found = json.loads((Path(scratch) / "result.json").read_text())
    megavoxels = math.prod(shape) / 1e6
    return found | {"megavoxels": megavoxels, "rate": found["seconds"] / megavoxels, "gibibytes": mebibytes / 1024}


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Draw seconds of a megavoxel, and memory, over the size of a volume."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    sizes = [row["megavoxels"] for row in rows]
    for axes, key, label, most in zip(
        figure.subplots(1, 2),
        ("rate", "gibibytes"),
        ("seconds per megavoxel", "peak memory, GiB"),
        (None, MOST_MEMORY),
        strict=True,
    ):
        axes.plot(sizes, [row[key] for row in rows], "o-", color="#1f6fb4")
        if most is not None:
            axes.axhline(most, color="#999999", linestyle="--")
        axes.set(xscale="log", xlabel="megavoxels of the volume", ylabel=label)
        axes.set_ylim(0, 1.25 * max(*(row[key] for row in rows), most or 0))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print what volumes of growing size take, draw it, and write the figures to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--full", action="store_true", help="up to 2048 x 2048 x 1024 voxels, and draw docs/")
    parser.add_argument("--picture", type=Path, help=f"where it is drawn; with --full {PICTURE.name} in docs/")
    options = parser.parse_args()
    rows = []
    print("voxels, seconds, seconds per megavoxel, GiB at the peak, pillars, blocks, windows that the network saw")
    for shape in FULL if options.full else SIZES:
        rows.append(row := measured(shape))
        text = f"{row['seconds']:9.1f} {row['rate']:8.4f} {row['gibibytes']:6.2f}"
        print(f"{' x '.join(map(str, shape)):20} {text} {row['pillars']} {row['blocks']} {row['forwards']}", flush=True)
    if (picture := options.picture or (PICTURE if options.full else None)) is not None:
        draw(rows, picture)
    sizes = [round(row["megavoxels"], 1) for row in rows]
    curve = {"megavoxels": sizes, "seconds per megavoxel": [round(row["rate"], 4) for row in rows]}
    times = rows[-1]["rate"] / rows[0]["rate"]
    name = "a megavoxel of a large volume"
    record(options.output, name, times, None, "times that of a small one", at_most=SLOWER, curve=curve)
    curve = {"megavoxels": sizes, "GiB": [round(row["gibibytes"], 2) for row in rows]}
    most = max(row["gibibytes"] for row in rows)
    record(options.output, "memory of a large volume", most, None, "GiB", at_most=MOST_MEMORY, curve=curve)


if __name__ == "__main__":
    main()
