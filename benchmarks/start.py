"""Claim: `python -m pipeline predict` sees its first image in half the time of `python -m monai.bundle run`."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from measure import interleaved, output_argument, record

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "unet"
# What takes the place of the bundle's inferer, in a config file on top of it.
OVERLAY = "inferer: {_target_: start.EndAtFirstForward}\n"
GOALS = {"--help": (0.5, 5.0), "first forward": (4.0, 2.0)}  # seconds, and times faster than MONAI's runner


class EndAtFirstForward:
    """An inferer that ends the process where the first image would go through the network."""

    def __call__(self, image: object, network: object) -> None:
        """End with success, whatever is not done yet."""
        os._exit(0)


def run(*arguments: object) -> None:
    """Run `python -m ...` to its end."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True)


def main() -> None:
    """Print the table, and write the figures to `--output`."""
    output = output_argument(__doc__)
    with TemporaryDirectory() as folder:
        images, overlay = Path(folder, "images"), Path(folder, "overlay.yaml")
        images.mkdir()
        tifffile.imwrite(images / "a.tif", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
        overlay.write_text(OVERLAY)
        ours = ("pipeline", "predict", BUNDLE, images, Path(folder, "ours"), "--overlay", overlay, "--trust")
        files = f"['{BUNDLE}/configs/inference.json','{overlay}']"
        theirs = ["monai.bundle", "run", "inference", "--config_file", files, "--bundle_root", BUNDLE]
        theirs += ["--input_dir", images, "--output_dir", Path(folder, "theirs")]
        times = interleaved(
            {
                "--help": partial(run, "pipeline", "--help"),
                "first forward": partial(run, *ours),
                "--help of monai.bundle": partial(run, "monai.bundle", "--", "--help"),
                "first forward of monai.bundle": partial(run, *theirs),
            },
            rounds=5,
        )
    print(f"{'start, s':14} {'ours':>6} {'goal':>6} {'monai.bundle':>13} {'ratio':>6} {'goal':>5}")
    for name, (seconds, at_least) in GOALS.items():
        mine, other = times[name] / 1e3, times[f"{name} of monai.bundle"] / 1e3
        print(f"{name:14} {mine:6.2f} {'<' + str(seconds):>6} {other:13.2f} {other / mine:6.1f} {at_least:5}")
        record(output, f"start, {name}", other / mine, at_least)


if __name__ == "__main__":
    main()
