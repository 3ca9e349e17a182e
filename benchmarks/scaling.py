"""Paper: 100,000 scans, and one light-sheet volume of 20,000 voxels a side, from what a case costs on this machine.

What is measured: seconds of a megavoxel by stage, bytes read and written, and what a case costs beside its voxels: to
be found, handed to a worker, and kept in the summary. What is simulated: workers of which some are slow and each dies
now and then. docs/scaling.md says what follows.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np
from fleet import Fleet, run
from matplotlib.figure import Figure
from measure import record
from scipy import ndimage

from pipeline.batch.inputs import find_inputs
from pipeline.batch.summary import write_summary
from pipeline.cluster.opening import Place, opened
from pipeline.cluster.tasks import run_tasks
from pipeline.inference import predict_with_bundle
from pipeline.provenance import digest

HERE = Path(__file__).parent
BUNDLE = HERE.parent / "bundles" / "unet3d"
PICTURE = HERE.parent / "docs" / "scaling.png"
SCANS, MEGAVOXELS, SPREAD = 100_000, 40.0, 0.5  # 512 x 512 x 150 in the median, log-normal
SIDE, BLOCK = 20_000, (1024, 1024, 128)  # of the light-sheet volume, and of what is recorded of it at once
WORKERS = (1, 4, 16, 64, 256, 1024, 4096)
FLEETS: dict[str, dict[str, float]] = {
    "nothing happens": {},
    "5 % of the workers 3 times slower": {"slow_share": 0.05},
    "and each dies once a day": {"slow_share": 0.05, "hours_between_deaths": 24.0},
    "and each dies once an hour": {"slow_share": 0.05, "hours_between_deaths": 1.0},
}
MEASURED, SPACING = (160, 160, 96), (1.0, 1.0, 3.0)  # voxels of the scans that are timed, and mm: those of the bundle
TASKS = 500  # that do nothing
AT_LEAST = 0.9  # of the paid time is useful with 64 workers of which 5 % are slow and each dies once a day


def scan(seed: int) -> nib.Nifti1Image:
    """Return something smooth with noise on it, which packs about as well as a CT."""
    rng = np.random.default_rng(seed)
    body = ndimage.gaussian_filter(rng.standard_normal(MEASURED), 8)
    voxels = 600 * body / np.abs(body).max() + rng.normal(0, 20, MEASURED)
    return nib.Nifti1Image(voxels.astype(np.int16), np.diag([*SPACING, 1.0]))


def costs_of_voxels(cases: int) -> dict[str, float]:
    """Return seconds of a megavoxel by stage, and bytes of one in and out, of this bundle on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "in").mkdir()
        for number in range(cases):
            nib.save(scan(number), folder / "in" / f"{number}.nii.gz")
        predict_with_bundle(BUNDLE, str(folder / "in"), str(folder / "out"), device="cpu")
        rows = json.loads((folder / "out" / "summary.json").read_text())[1:]  # the first one warms up
        stages = sorted({key for row in rows for key in row if key.startswith("seconds_")})
        size = math.prod(MEASURED) / 1e6
        medians = {stage: float(np.median([row.get(stage, 0.0) for row in rows])) for stage in stages}
        costs = {stage.removeprefix("seconds_"): seconds / size for stage, seconds in medians.items()}
        for name in ("in", "out"):
            files = list((folder / name).glob("*.nii.gz"))
            costs[f"bytes {name}"] = sum(file.stat().st_size for file in files) / cases / size
    return costs


def costs_of_cases(count: int) -> dict[str, float]:
    """Return the seconds that finding a case takes, writing its row of the summary, and reading a gigabyte of it again.

    The last is what `--resume` does with all inputs and outputs of a batch, for it believes nothing but their bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "in"
        for number in range(count):
            file = folder / f"{number % 100:02}" / f"{number:06}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        begun = perf_counter()
        entries = find_inputs(folder, spatial_dims=3)
        found = perf_counter() - begun
        row = {"status": "done", "reason": "", "seconds": 1.0, "shape": [512, 512, 150], "outputs": ["a.nii.gz"]}
        rows = [{"case": entry.case, **row} for entry in entries]
        begun = perf_counter()
        write_summary(Path(scratch) / "summary", rows)
        written = perf_counter() - begun
        (large := Path(scratch) / "large").write_bytes(bytes(2**28))
        begun = perf_counter()
        digest(large)
        return {"find": found / count, "summary": written / count, "digest": (perf_counter() - begun) * 1e9 / 2**28}


def sizes() -> np.ndarray:
    """Return the megavoxels of 100,000 scans."""
    return np.random.default_rng(0).lognormal(math.log(MEGAVOXELS), SPREAD, SCANS)


def table(title: str, seconds: np.ndarray, hand_over: float) -> dict[str, list[float]]:
    """Print how long fleets of many sizes take for tasks; return the part of the paid time that is useful."""
    useful = float(seconds.sum())
    print(f"\n{title}: {len(seconds)} tasks, {useful / 3600:.0f} worker hours, the longest {seconds.max():.0f} s")
    print(f"{'workers':>8} " + " ".join(f"{name:>34}" for name in FLEETS))
    efficiencies: dict[str, list[float]] = {name: [] for name in FLEETS}
    for workers in WORKERS:
        cells = []
        for name, fate in FLEETS.items():
            course = run(seconds, Fleet(workers, hand_over=hand_over, **fate))
            efficiencies[name].append(course.efficiency(useful, workers))
            lost = course.lost / (course.lost + course.computed)
            cells.append(f"{course.seconds / 3600:10.1f} h, {efficiencies[name][-1]:4.0%}, lost {lost:5.2%}")
        print(f"{workers:8} " + " ".join(f"{cell:>34}" for cell in cells), flush=True)
    return efficiencies


def drawn(curves: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """Draw the useful part of the paid time over the number of workers."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (title, efficiencies) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for name, values in efficiencies.items():
            axes.plot(WORKERS, values, marker="o", markersize=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(WORKERS, [str(workers) for workers in WORKERS], fontsize=8)
        axes.set_ylim(0, 1.05)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("workers", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("useful part of the paid time", fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def hand_over() -> float:
    """Return the seconds that Dask, and what watches over its tasks here, take for one that does nothing."""
    with opened(Place(workers=1)) as client:
        ended = run_tasks(client, abs, range(TASKS), at_once=3)
        next(ended)
        begun = perf_counter()
        count = sum(1 for _ in ended)
        return (perf_counter() - begun) / count


def blocks(rate: float) -> np.ndarray:
    """Return the seconds of each block of the light-sheet volume, at so many of a megavoxel."""
    count = math.prod(-(-SIDE // edge) for edge in BLOCK)
    return np.full(count, rate * math.prod(BLOCK) / 1e6)


def beside_the_network() -> float:
    """Return the seconds of a megavoxel of the largest volume of benchmarks/large_volume.py, whose network is tiny."""
    figures: list[dict[str, Any]] = json.loads((HERE / "results.json").read_text())
    (found,) = [figure for figure in figures if figure["name"] == "a megavoxel of a large volume"]
    return float(found["curve"]["seconds per megavoxel"][-1])


def main() -> None:
    """Print the tables, draw docs/scaling.png, and write the figures to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where it is drawn (docs/scaling.png)")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    voxel, case, task = costs_of_voxels(6), costs_of_cases(20_000), hand_over()
    for name, value in {**voxel, **case, "task": task}.items():
        print(f"{name:12} {value:12.6g}")
    megavoxels = sizes()
    stages = sum(value for name, value in voxel.items() if not name.startswith("bytes"))
    scans = megavoxels * stages
    print(f"{megavoxels.sum():.0f} megavoxels, {(megavoxels * voxel['bytes in']).sum() / 1e12:.2f} TB in, ", end="")
    print(f"{(megavoxels * voxel['bytes out']).sum() / 1e12:.3f} TB out; {stages:.3f} s a megavoxel")
    dense = blocks(voxel["forward"] + beside_the_network())
    curves = {
        "100,000 scans": table("100,000 scans", scans, task),
        "one volume of 20,000³ voxels": table("one volume of 20,000^3 voxels", dense, task),
    }
    figure = drawn(curves)
    figure.savefig(options.picture, dpi=120)
    useful = curves["100,000 scans"]["and each dies once a day"][WORKERS.index(64)]
    name = "useful part of 64 workers' time, 100,000 scans"
    record(options.output, name, useful, AT_LEAST, "of it, simulated")
    record(options.output, "a task on a cluster that does nothing", 1e3 * task, None, "ms")


if __name__ == "__main__":
    main()
