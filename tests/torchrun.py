"""Commands of bundles in the processes of a real torchrun, and what goes wrong in one of them."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import torch
from discs import ROOT, UNET

from pipeline import ranks
from pipeline.losses.weighted import targets_with_weights

TIME_LIMIT = 300  # seconds


class Torchrun:
    """`torchrun --standalone`, whose processes run one command of a bundle after another.

    Args:
        folder: the working directory.
        processes: how many.
        commands: as `command` makes them.
        flags: of torchrun.
        devices: the GPUs that they see, as CUDA_VISIBLE_DEVICES; None: all of them.
    """

    def __init__(self, folder, processes, *commands, flags=(), devices=""):
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *flags]
        self.log = folder / "torchrun.log"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        environment |= {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*words, "-m", "torchrun", json.dumps(commands)], cwd=folder, env=environment, stdout=log, stderr=log
            )

    def wait(self):
        """Return the exit status and what all processes printed."""
        try:
            return self.process.wait(TIME_LIMIT), self.log.read_text()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"torchrun hangs:\n{self.log.read_text()}") from None

    def told(self):
        return [line for line in self.log.read_text().split("\n") if "error: " in line]


def command(run_id, *files, **options):
    """The words behind `python -m monai.bundle run`; relative names are configs of bundles/unet."""
    paths = [str(file if Path(file).is_absolute() else UNET / "configs" / file) for file in files]
    return [
        run_id,
        "--config_file",
        str(paths),
        *(word for key, value in options.items() for word in (f"--{key}", str(value))),
    ]


class Ending(torch.nn.Module):
    """A loss at which one rank, in the n-th iteration and before any restart, sends itself a signal."""

    def __init__(self, loss, rank, iteration, number=signal.SIGKILL):
        super().__init__()
        self.loss, self.rank, self.iteration, self.number, self.count = loss, rank, iteration, number, 0

    def forward(self, output, targets):
        self.count += 1
        if (ranks.rank(), self.count, ranks.restarts()) == (self.rank, self.iteration, 0):
            os.kill(os.getpid(), self.number)
        return self.loss(output, targets)


def spoilt_in_rank_1(batch, *arguments, **options):
    """A batch whose last image is not finite, in rank 1 alone."""
    image, targets = targets_with_weights(batch, *arguments, **options)
    if ranks.rank() == 1:
        (Path.cwd() / "spoilt.txt").write_text(batch["id"][-1])
        image[-1] = float("nan")
    return image, targets


if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        sys.argv = ["monai.bundle", "run", *words]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
