"""Claim: RandElasticd takes 1/15 of the time of MONAI's transforms, in 2D and 3D, and 1/15 of the memory.

Each of them crops, flips, rotates, scales and deforms; MONAI crops and flips first, which is the fastest order. And in
2D it takes 1/4 of the time of batchgeneratorsv2, with which nnU-Net augments; that is left out where it cannot be
imported (`pip install --no-deps batchgeneratorsv2 batchgenerators`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from math import pi
from pathlib import Path

import torch
from measure import interleaved, output_argument, peak_memory, record
from monai.transforms import Compose, Rand2DElasticd, Rand3DElasticd, RandAffined, RandFlipd, RandSpatialCropd

from pipeline.transforms.rand_elastic import RandElasticd

PICTURE, VOLUME, VOLUME_KEYS = (512, 512), (128, 128, 128), ("image", "label")  # the size of the crops
MARGIN = 32  # pixels by which an image is larger than its crop, along each axis
CANDIDATES = ("nothing", "ours", "monai")  # nothing: what the imports and the sample take by themselves
GOALS = {("MONAI", 2): 15, ("MONAI", 3): 15, ("batchgeneratorsv2", 2): 4, ("batchgeneratorsv2", 3): None}
MODES = {"image": ("bilinear", "linear"), "label": ("nearest", "nearest"), "weight": ("bilinear", "linear")}


def sample(shape: tuple[int, ...], keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """An image, a label of three classes and, if asked for, a weight map, of which crops of `shape` are taken."""
    shape = tuple(n + MARGIN for n in shape)
    made = {"image": torch.rand(1, *shape), "label": torch.randint(3, (1, *shape)).to(torch.uint8)}
    return {key: made.get(key, torch.rand(1, *shape)) for key in keys}


def fused(keys: tuple[str, ...], shape: tuple[int, ...]) -> Callable:
    """Crop, flips, rotation, scaling and a 3-node elastic deformation in one resampling."""
    modes = tuple(MODES[key][1] for key in keys)
    made = RandElasticd(keys, shape, modes, rotation=180.0, scaling=(0.8, 1.25), flip_prob=0.5)
    return made.set_random_state(0)


def chained(keys: tuple[str, ...], shape: tuple[int, ...]) -> Callable:
    """The same ranges with MONAI's transforms, two of them resampling; in 2D with the nodes 170 px apart."""
    spatial_dims = len(shape)
    shared = {"prob": 1.0, "mode": tuple(MODES[key][0] for key in keys), "padding_mode": "reflection"}
    affine = RandAffined(keys, rotate_range=(pi,) * (2 * spatial_dims - 3), scale_range=(-0.2, 0.25), **shared)
    if spatial_dims == 2:
        elastic = Rand2DElasticd(keys, spacing=(170, 170), magnitude_range=(10, 10), **shared)
    else:
        elastic = Rand3DElasticd(keys, sigma_range=(5, 8), magnitude_range=(100, 200), **shared)
    flips = [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(spatial_dims)]
    crop = RandSpatialCropd(keys, shape, random_size=False)
    return Compose([crop, *flips, affine, elastic]).set_random_state(0)


def of_nnunet(shape: tuple[int, ...]) -> Callable:
    """The same ranges by batchgeneratorsv2: one resampling, displacements as smooth as a third of a side; flips."""
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    elastic = {"p_elastic_deform": 1.0, "elastic_deform_scale": (0.33, 0.33), "elastic_deform_magnitude": (10, 10)}
    affine = {"p_rotation": 1.0, "rotation": (-pi, pi), "p_scaling": 1.0, "scaling": (0.8, 1.25)}
    spatial = SpatialTransform(shape, 0, random_crop=True, **elastic, **affine, mode_seg="nearest")
    return ComposeTransforms([spatial, MirrorTransform(tuple(range(len(shape))))])


def in_their_words(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a sample's maps as batchgeneratorsv2 does."""
    names = {"image": "image", "label": "segmentation", "weight": "regression_target"}
    return {names[key]: values for key, values in data.items()}


def once(by: str) -> None:
    """Build the 3D sample, and transform it by one of `CANDIDATES`, in a process whose memory is measured."""
    torch.set_num_threads(1)
    data = sample(VOLUME, VOLUME_KEYS)
    if by == "ours":
        fused(VOLUME_KEYS, VOLUME)(data)
    elif by == "monai":
        chained(VOLUME_KEYS, VOLUME)(data)


def main() -> None:
    """Print the table, and write the figures to `--output`; all on one thread."""
    output = output_argument(__doc__)
    torch.set_num_threads(1)
    print(f"{'sample':44} {'against':>18} {'fused':>7} {'theirs':>7} {'ratio':>6} {'goal':>5}")
    for shape, keys in [(PICTURE, ("image", "label", "weight")), (VOLUME, VOLUME_KEYS)]:
        data, name = sample(shape, keys), f"{'x'.join(map(str, shape))}: {' + '.join(keys)}"
        candidates = {"ours": partial(fused(keys, shape), data), "MONAI": partial(chained(keys, shape), data)}
        if find_spec("batchgeneratorsv2"):
            theirs, renamed = of_nnunet(shape), in_their_words(data)
            candidates["batchgeneratorsv2"] = lambda theirs=theirs, renamed=renamed: theirs(**renamed)
        else:
            print("batchgeneratorsv2 is not installed, and left out")
        for name_of, run in candidates.items():
            assert run()["image"].shape == (1, *shape), f"{name_of} gives another size"
        times = interleaved(candidates)
        for against in list(candidates)[1:]:
            goal = GOALS[against, len(shape)]
            report(output, name, against, times["ours"], times[against], goal)
    nothing, ours, monai = (peak_memory(f"import rand_elastic; rand_elastic.once('{by}')") for by in CANDIDATES)
    ratio = (monai - nothing) / (ours - nothing)
    print(f"{name + ', MiB':44} {'MONAI':>18} {ours - nothing:7.1f} {monai - nothing:7.1f} {ratio:6.1f} {15:5}")
    record(output, f"augmentation memory, {name}", ratio, 15, "times less memory")


def report(output: Path | None, name: str, against: str, ours: float, theirs: float, goal: float | None) -> None:
    """Print one line of the table, and keep its ratio."""
    ratio = theirs / ours
    print(f"{name + ', ms':44} {against:>18} {ours:7.1f} {theirs:7.1f} {ratio:6.1f} {goal or '':5}", flush=True)
    label = name if against == "MONAI" else f"{name}, against {against}"
    record(output, f"augmentation, {label}", ratio, goal)


if __name__ == "__main__":
    main()
