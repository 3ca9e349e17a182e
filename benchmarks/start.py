"""Claim: `python -m pipeline predict` has predicted an image before `python -m monai.bundle run` sees its first one."""

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
# `monai.bundle run` ends where the first image would go through its network: this takes the place of the inferer.
OVERLAY = "inferer: {_target_: start.EndAtFirstForward}\n"
# Seconds, and times faster than MONAI's runner. The prediction is timed to its end, its saved file included.
GOALS = {"--help": (0.5, 5.0), "a small image, to the saved file": (4.0, 2.0)}


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
        ours = ("pipeline", "predict", BUNDLE, images, Path(folder, "ours"))
        files = f"['{BUNDLE}/configs/inference.json','{overlay}']"
        theirs = ["monai.bundle", "run", "inference", "--config_file", files, "--bundle_root", BUNDLE]
        theirs += ["--input_dir", images, "--output_dir", Path(folder, "theirs")]
        helped, predicted = GOALS
        times = interleaved(
            {
                helped: partial(run, "pipeline", "--help"),
                predicted: partial(run, *ours),
                f"{helped}, MONAI": partial(run, "monai.bundle", "--", "--help"),
                f"{predicted}, MONAI": partial(run, *theirs),
            },
            rounds=5,
        )
    print(f"{'start, s':34} {'ours':>6} {'goal':>6} {'monai.bundle':>13} {'ratio':>6} {'goal':>5}")
    for name, (seconds, at_least) in GOALS.items():
        mine, other = times[name] / 1e3, times[f"{name}, MONAI"] / 1e3
        print(f"{name:34} {mine:6.2f} {'<' + str(seconds):>6} {other:13.2f} {other / mine:6.1f} {at_least:5}")
        record(output, f"start, {name}", mine, None, "seconds", at_most=seconds)
        record(output, f"start, {name}, than monai.bundle to its first forward", other / mine, at_least)


if __name__ == "__main__":
    main()
