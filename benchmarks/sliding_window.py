"""Claim: beside its forwards, a label map costs little time, and a third of the memory that MONAI's inferer takes.

The network is a light one in bfloat16 (MONAI's UNet, 16 to 256 channels, its first layer at half resolution), so that
what is beside it weighs most: the project's own UNet computes about ten times as long, see `--network unet`. Ours and
MONAI's labels are compared; nnU-Net spaces and weighs its windows in another way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from pipeline.heap import use_large_pages

use_large_pages()

import torch  # noqa: E402
from measure import peak_memory, record  # noqa: E402
from monai.data import MetaTensor  # noqa: E402
from monai.inferers import SlidingWindowInferer  # noqa: E402
from monai.networks import nets  # noqa: E402

from pipeline.inferers.sliding_window import SlidingWindow  # noqa: E402
from pipeline.label_slabs import predict_labels  # noqa: E402
from pipeline.networks.precision import Autocast  # noqa: E402
from pipeline.networks.unet import UNet  # noqa: E402
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd  # noqa: E402

SMALL, LARGE = (256, 256, 128), (512, 512, 160)
SHARE = {2: 0.15, 14: 0.35}  # seconds beside the forwards, for each second of them, at most
LESS_MEMORY = 3.0
EQUAL = 0.999  # of the voxels have MONAI's label; the others are ties of bfloat16's few values
CHANNELS, ROI = (16, 32, 64, 128, 256), (96, 96, 96)
WINDOW = {"roi_size": ROI, "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
NNUNET = "nnU-Net is left out: pip install nnunetv2 (then torch again, in the version of constraints.txt)"


class Timed:
    """A network whose seconds are kept; or one of its output's size, with one pass over it, where time is short."""

    def __init__(self, classes: int, kind: str, narrow: bool = False) -> None:
        torch.manual_seed(0)  # the same network for each
        if kind == "unet":
            network: torch.nn.Module = UNet(3, 1, classes, CHANNELS, norm="batch")
        else:
            network = nets.UNet(3, 1, classes, CHANNELS, (2, 2, 2, 2), norm="batch")
        self.network = Autocast(network.eval(), torch.bfloat16, torch.channels_last_3d, narrow_logits=narrow)
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.classes, self.copies, self.seconds, self.training = classes, kind == "copies", 0.0, False

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, *roi), the channels of a voxel side by side, in new memory."""
        start = perf_counter()
        if self.copies:
            shape = (len(windows), *ROI, self.classes)
            logits = windows.new_empty(shape, dtype=self.dtype).movedim(-1, 1).copy_(windows)
        else:
            logits = self.network(windows)
        self.seconds += perf_counter() - start
        return logits


def ours(network: Callable[..., Any], volume: torch.Tensor) -> torch.Tensor:
    """Return the label map (1, *size) of a volume (1, *size)."""
    item = {"image": MetaTensor(volume)}
    return predict_labels(item, network, SlidingWindow(**WINDOW), [ClassesFromLogitsd("pred")], "cpu")["pred"]


def monai(network: Callable[..., Any], volume: torch.Tensor) -> torch.Tensor:
    """Return the same by MONAI's inferer and an argmax."""
    return SlidingWindowInferer(**WINDOW)(volume[None], network)[0].argmax(0, keepdim=True)


def nnunet(network: Any, volume: torch.Tensor) -> torch.Tensor:
    """Return labels by nnU-Net's predictor and an argmax, without mirroring; its windows are spaced a little closer."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    class Module(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return network(windows)

    with redirect_stdout(StringIO()):  # it says that it runs on no GPU
        predictor = nnUNetPredictor(0.5, True, False, False, torch.device("cpu"), allow_tqdm=False)
    predictor.network, predictor.allowed_mirroring_axes = Module(), None
    predictor.configuration_manager = SimpleNamespace(patch_size=ROI)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=network.classes)
    return predictor.predict_sliding_window_return_logits(volume).argmax(0, keepdim=True)


CANDIDATES: dict[str, Callable[..., torch.Tensor]] = {"ours": ours, "MONAI": monai, "nnU-Net": nnunet}


@torch.no_grad()
def once(by: str | None, size: tuple[int, ...], classes: int) -> None:
    """Make one label map in a process whose memory is measured; None: only what is there before."""
    torch.set_num_threads(2)
    network, volume = Timed(classes, "copies", narrow=by == "ours"), torch.rand(1, *size)
    if by is not None:
        CANDIDATES[by](network, volume)


@torch.no_grad()
def seconds(
    names: list[str], size: tuple[int, ...], classes: int, kind: str, rounds: int
) -> tuple[dict[str, float], float]:
    """Return the seconds of each candidate beside its network, and those of the same windows in the network alone."""
    volume = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    # Ours takes logits in bfloat16, as `predict` gives it; the others' own loops are given float32.
    networks = {name: Timed(classes, kind, narrow=name == "ours") for name in names}
    alone = Timed(classes, kind if kind != "copies" else "light", narrow=True)
    count = torch.tensor([len(starts) for starts in SlidingWindow(**WINDOW)._starts(size)]).prod()
    batch, batches = torch.rand(2, 1, *ROI), int(count + 1) // 2
    timed = batches if kind != "copies" else 10
    beside, forwards = {name: [] for name in names}, []
    for number in range(rounds + 1):
        labels = {}
        for name in names:
            network = networks[name]
            network.seconds, start = 0.0, perf_counter()
            labels[name] = CANDIDATES[name](network, volume)
            beside[name].append(perf_counter() - start - network.seconds)
        equal = (labels["ours"].as_tensor() == labels["MONAI"]).float().mean()
        assert equal >= EQUAL, f"only {equal:.5f} of the labels are MONAI's"
        del labels
        start = perf_counter()
        for _ in range(timed):
            alone(batch)
        forwards.append((perf_counter() - start) * batches / timed)
        if number == 0:  # the first round warms up
            beside, forwards = {name: [] for name in names}, []
    return {name: median(values) for name, values in beside.items()}, median(forwards)


def main() -> None:
    """Print the tables, and write the figures to `--output`; all on two threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--large", action="store_true", help="also 512x512x160, whose forwards are timed apart")
    parser.add_argument("--network", choices=("light", "unet"), default="light", help="unet: the project's own, slow")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(2)
    names = ["ours", "MONAI"]
    try:
        import nnunetv2.inference.predict_from_raw_data  # noqa: F401

        names.append("nnU-Net")
    except ImportError as error:
        print(f"{NNUNET}: {error}")
    for size in (SMALL, LARGE) if options.large else (SMALL,):
        for classes, at_most in SHARE.items():
            case = f"{'x'.join(map(str, size))}, {classes} classes"
            kind = options.network if size == SMALL else "copies"
            beside, forwards = seconds(names, size, classes, kind, options.rounds if size == SMALL else 1)
            apart = "" if size == SMALL else ", from 20 windows by the light network, apart"
            print(f"{case}: forwards alone {forwards:.2f} s{apart}")
            code = f"import sliding_window; sliding_window.once({{!r}}, {size}, {classes})"
            nothing = peak_memory(code.format(None))
            memory = {name: peak_memory(code.format(name)) - nothing for name in names}
            for name in names:
                share = 100 * beside[name] / forwards
                print(f"  {name:8} {beside[name]:8.3f} s beside = {share:6.1f} %   {memory[name]:7.0f} MiB", flush=True)
            share, own = beside["ours"] / forwards, memory["ours"]
            print(f"  goals    at most {100 * at_most:.0f} %, and 1/{LESS_MEMORY:.0f} of MONAI's memory")
            keep(options.output, f"sliding window, forwards for each second beside, {case}", 1 / share, 1 / at_most)
            for name in names[1:]:
                faster, less = beside[name] / beside["ours"], memory[name] / own
                keep(options.output, f"sliding window time beside, {case}, {name}", faster, 1.0)
                at_least = LESS_MEMORY if name == "MONAI" else 1.0
                keep(options.output, f"sliding window memory, {case}, {name}", less, at_least, "times less memory")


def keep(output: Path | None, name: str, ratio: float, at_least: float, unit: str = "times faster") -> None:
    """Print a ratio, and record it."""
    print(f"  {name}: {ratio:.1f} {unit} (goal {at_least:.1f})")
    record(output, name, ratio, round(at_least, 1), unit)


if __name__ == "__main__":
    main()
