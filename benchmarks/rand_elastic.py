"""Claim: RandElasticd takes 1/15 of the time of MONAI's two transforms, in 2D and 3D, and 1/15 of the memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import pi

import torch
from measure import interleaved, output_argument, peak_memory, record
from monai.transforms import Compose, Rand2DElasticd, Rand3DElasticd, RandAffined

from pipeline.transforms.rand_elastic import RandElasticd

VOLUME, VOLUME_KEYS = (128, 128, 128), ("image", "label")
CANDIDATES = ("nothing", "ours", "monai")  # nothing: what the imports and the sample take by themselves
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


def once(by: str) -> None:
    """Build the 3D sample, and transform it by one of `CANDIDATES`, in a process whose memory is measured."""
    torch.set_num_threads(1)
    data = sample(VOLUME, VOLUME_KEYS)
    if by == "ours":
        fused(VOLUME_KEYS)(data)
    elif by == "monai":
        chained(VOLUME_KEYS, len(VOLUME))(data)


def main() -> None:
    """Print the table, and write the figures to `--output`; all on one thread."""
    output = output_argument(__doc__)
    torch.set_num_threads(1)
    print(f"{'sample':44} {'fused':>7} {'MONAI':>7} {'ratio':>6} {'goal':>5}")
    for shape, keys, at_least in [((512, 512), ("image", "label", "weight"), 15), (VOLUME, VOLUME_KEYS, 15)]:
        data, ours, monai = sample(shape, keys), fused(keys), chained(keys, len(shape))
        times = interleaved({"ours": partial(ours, data), "monai": partial(monai, data)})
        name, ratio = f"{'x'.join(map(str, shape))}: {' + '.join(keys)}", times["monai"] / times["ours"]
        print(f"{name + ', ms':44} {times['ours']:7.1f} {times['monai']:7.1f} {ratio:6.1f} {at_least:5}")
        record(output, f"augmentation, {name}", ratio, at_least)
    nothing, ours, monai = (peak_memory(f"import rand_elastic; rand_elastic.once('{by}')") for by in CANDIDATES)
    ratio = (monai - nothing) / (ours - nothing)
    print(f"{name + ', MiB':44} {ours - nothing:7.1f} {monai - nothing:7.1f} {ratio:6.1f} {15:5}")
    record(output, f"augmentation memory, {name}", ratio, 15, "times less memory")


if __name__ == "__main__":
    main()
