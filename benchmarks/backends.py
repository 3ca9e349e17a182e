"""Claim: OpenVINO computes float32 windows faster than PyTorch, which is twice as fast in bfloat16; labels stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import interleaved, output_argument, record
from monai.bundle import ConfigParser
from torch import nn

from pipeline.backends import Exported, is_installed
from pipeline.handlers.load_weights import load_weights
from pipeline.networks.precision import for_prediction, has_bfloat16
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs

BUNDLES = Path(__file__).parents[1] / "bundles"
WINDOWS = 4
# Of each bundle: what it sees, and the size of a window.
SEEN = {"unet": (lambda: make_cells(3)[0], (256, 256)), "unet3d": (lambda: make_organs(3).volume, (48, 48, 24))}
TIMES_FASTER = {"torch bfloat16": 1.5, "openvino": 1.1, "onnx": 0.7}
EQUAL = 0.999  # share of the voxels whose label is that of PyTorch in float32


def network_of(bundle: str) -> nn.Module:
    """The bundle's trained network."""
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLES / bundle / "configs" / "inference.json")))
    return load_weights(BUNDLES / bundle / "models" / "model.pt", parser.get_parsed_content("network_def")).eval()


def windows_of(bundle: str) -> torch.Tensor:
    """Windows of a drawn image, (N, 1, *size)."""
    draw, size = SEEN[bundle]
    image = torch.from_numpy(np.asarray(draw(), np.float32))
    image = ((image - image.mean()) / image.std())[tuple(slice(n) for n in size)]
    missing = [length for n, have in zip(size[::-1], tuple(image.shape)[::-1], strict=True) for length in (0, n - have)]
    return nn.functional.pad(image, missing).expand(WINDOWS, 1, *size).contiguous()


def candidates(network: nn.Module) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """All that this machine has; the first is what the others are compared with."""
    found = {"torch float32": for_prediction(network, torch.float32)}
    if has_bfloat16("cpu"):
        found["torch bfloat16"] = for_prediction(network, torch.bfloat16)
    return found | {name: Exported(network, name) for name in ("openvino", "onnx") if is_installed(name)}


@torch.no_grad()
def main() -> None:
    """Print the table, and write the figures to `--output`."""
    output = output_argument(__doc__)
    print(f"{'network, program':26} {'ms a window':>12} {'ratio':>6} {'goal':>5} {'same labels':>12}")
    for bundle in SEEN:
        windows, programs = windows_of(bundle), candidates(network_of(bundle))
        labels = {name: program(windows).argmax(1) for name, program in programs.items()}
        times = interleaved({name: partial(program, windows) for name, program in programs.items()}, rounds=7)
        slow, expected = times["torch float32"], labels["torch float32"]
        for name, at_least in {"torch float32": 1.0, **TIMES_FASTER}.items():
            if name not in programs:
                print(f"{bundle + ', ' + name:26} is left out: it is not installed, or there is no bfloat16 unit")
                continue
            same = float((labels[name] == expected).float().mean())
            if same < EQUAL:
                raise SystemExit(f"{bundle}, {name}: only {same:.5f} of the labels are those of PyTorch in float32")
            ratio = slow / times[name]
            print(f"{bundle + ', ' + name:26} {times[name] / WINDOWS:12.1f} {ratio:6.2f} {at_least:5} {same:12.5f}")
            if name != "torch float32":
                record(output, f"forward of {bundle}, {name}", ratio, at_least)


if __name__ == "__main__":
    main()
