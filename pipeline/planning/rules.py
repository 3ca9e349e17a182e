"""The rules of a plan: from facts to settings, each with its reason. Nothing is read, run or measured here.

What nnU-Net's rules teach (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2) is
kept where it holds on any machine. The width of the network and the length of the training follow the time that there
is (`pipeline.planning.schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.planning.facts import Facts
from pipeline.planning.geometry import (
    LOWEST_EDGE,
    Geometry,
    batch_size,
    choose_geometry,
    coarse_axis,
    most_voxels,
)
from pipeline.planning.names import names_ct, sided_axes

AIR = -500  # Hounsfield units: what fills the image around a patient in CT is below
RARE = 1e-3  # share of the voxels below which a class is lost in cross-entropy
MOST_WEIGHT = 10.0
SPARSE = 0.05  # share of foreground below which crops of pictures are laid around it
SMALL = 10  # percentile of the cases' smallest objects: a slip of the annotator's pen is no measure
CACHE_SHARE = 0.5  # of the free memory, for cases that are kept between epochs
TURN = 15.0  # degrees, of what is not turned all around
SIDES = ("left and right", "front and back", "top and bottom")


@dataclass(frozen=True)
class Choice:
    """One line of a plan.

    Args:
        key: of the bundle's config, such as "crop_size" or "network_def#channels".
        value: what JSON can hold.
        why: one sentence or two.
    """

    key: str
    value: Any
    why: str


def choices(facts: Facts, most: int | None = None) -> list[Choice]:
    """Return all that the facts decide: everything but the network's width and the training's length.

    Args:
        facts: of data and machine.
        most: voxels of a crop, where the time is too short for as many as the machine can hold.
    """
    form = choose_geometry(facts, most)
    parts = (_data(facts), _grid(facts, form, most), _network(facts, form), _augmentation(facts, form))
    return [*(choice for part in parts for choice in part), *_sampling(facts, form), *_loss(facts), *_objects(facts)]


def overlays(facts: Facts) -> list[tuple[str, str]]:
    """Return which of the bundle's overlays the plan takes over, without their ending, and why."""
    name, why = normalisation(facts)
    found = [(name, why)] if name else []
    if facts.label_kind == "instances" and facts.spatial_dims == 2:
        found.append(
            ("loss_border_dice", "objects that touch come apart where the narrow background between counts more")
        )
        found.append(("post_watershed", "labels number objects: so do predictions, and what still touches is parted"))
        found.append(("measures_instances", "objects are scored, not pixels alone"))
    elif facts.label_kind == "instances":
        found.append(("post_components", "labels number objects: so do predictions"))
    return found


def normalisation(facts: Facts) -> tuple[str | None, str]:
    """Return which of the bundle's `norm_` overlays is taken, None for its default, and why."""
    if facts.spatial_dims == 2:
        return None, "each image by itself, for grey values of microscopes have no unit"
    air = float(np.median(facts.lows)) <= AIR
    if names_ct(facts.channels) or (names_ct(facts.channels) is None and air):
        return "norm_ct_percentiles", "CT: one window for all scans, so that Hounsfield units keep their meaning"
    masked = float(np.mean((np.asarray(facts.lows) == 0) & (np.asarray(facts.medians) == 0)))
    if masked > 0.5:
        return "norm_nonzero", f"most voxels are 0 in {100 * masked:.0f} % of the images: they are left out"
    return None, "no CT and no masked background: each volume by itself, outliers clipped"


def class_weight(facts: Facts) -> tuple[list[float] | None, str]:
    """Return the weights of the cross-entropy, None for equal ones, and why."""
    rarest = min((share for share in facts.shares[1:] if share > 0), default=1.0)
    if rarest >= RARE:
        return None, f"the rarest class fills {_percent(rarest)} of the voxels, which Dice balances"
    most = max(facts.shares)
    weights = [min(math.sqrt(most / share), MOST_WEIGHT) if share else 1.0 for share in facts.shares]
    why = f"the rarest class fills {_percent(rarest)}: roots of the inverse shares, at most {MOST_WEIGHT:g}"
    return [round(weight, 2) for weight in weights], why


def cached_cases(facts: Facts, size: Sequence[int]) -> tuple[int, int]:
    """Return how many training and how many validation cases stay in memory; those that train are read more often."""
    case = math.prod(size) * 4 * (len(facts.channels) + 1)  # float32, and the label
    room = int(CACHE_SHARE * facts.cache_memory / case)
    training = min(facts.training, room)
    return training, min(facts.validation, room - training)


def _data(facts: Facts) -> Iterator[Choice]:
    yield Choice("class_names", list(facts.classes), "as the data list names them")
    yield Choice("in_channels", len(facts.channels), f"the images' channels: {', '.join(facts.channels)}")


def _grid(facts: Facts, form: Geometry, most: int | None) -> Iterator[Choice]:
    unit = "pixels" if facts.spatial_dims == 2 else "voxels"
    if facts.spatial_dims == 3 and (form.spacing is None or facts.median_spacing is None):
        yield Choice("spacing", [None] * 3, "the files tell no spacing, so nothing is resampled")
    elif form.spacing is not None and facts.median_spacing is not None:
        why = "the median of the cases, in mm"
        if coarse_axis(facts.median_spacing) is not None:
            why += "; along the coarse axis the 10th percentile, so that thin slices are not thrown away"
        yield Choice("spacing", list(form.spacing), why)
    shown = " x ".join(map(str, form.size))
    why = f"covers the median case of {shown} {unit}"
    if not form.covers:
        limit = f"{most or most_voxels(facts):,}{'' if most is None else ', as the time is short'}"
        why = f"the median case has {shown} {unit}, of which a crop shows at most {limit}"
    if form.flat_axis is not None:
        why = f"single slices, for {form.size[form.flat_axis]} of them are too few to learn across; {why}"
    yield Choice("crop_size", list(form.crop), why)
    yield Choice("tiling#roi_size", list(form.crop), "predicted in windows of the size that was trained on")


def _network(facts: Facts, form: Geometry) -> Iterator[Choice]:
    lowest = " x ".join(map(str, form.lowest))
    least = LOWEST_EDGE[facts.spatial_dims]
    why = f"{len(form.strides) + 1} levels: halved while {least} or more are left ({lowest} on the lowest)"
    if len({factor for step in form.strides for factor in step}) > 1:
        why += ", a coarse axis later than a fine one"
    yield Choice("network_def#strides", [list(step) for step in form.strides], why)
    if form.flat_axis is not None:
        kernel = [1 if axis == form.flat_axis else 3 for axis in range(3)]
        yield Choice("network_def#kernel_size", kernel, "a 2D network: no convolution crosses slices")


def _augmentation(facts: Facts, form: Geometry) -> Iterator[Choice]:
    if facts.spatial_dims == 3:
        yield from _across_slices(form)
    else:
        width = round(min(10.0, min(form.crop) / 16), 1)
        yield Choice("spatial_augmentation#sigma", width, "displaced by a 16th of the crop, 10 pixels at most")
    flips, why = flip_probabilities(facts)
    yield Choice("spatial_augmentation#flip_prob", flips, why)
    upright = facts.spatial_dims == 2 and min(flips) == 0
    if upright:
        yield Choice("spatial_augmentation#rotation", TURN, "degrees: what has a side is not turned upside down")
    axes = [axis for axis, probability in enumerate(flips) if probability]
    average: dict[str, Any] = {"_target_": "pipeline.inferers.averaged.AveragedInferer", "inferer": "@tiling"}
    if facts.spatial_dims == 2 and not upright:
        why = "the mean of 8 turns and mirror images, as training sees them: 8 times the time of one prediction"
        yield Choice("inferer", average | {"transforms": "dihedral"}, why)
    elif axes:
        average |= {"transforms": "mirrors", "axes": axes}
        average |= {"activation": "@output_activation"} if facts.spatial_dims == 3 else {}
        why = f"the mean of the mirror images that training sees: {2 ** len(axes)} times the time of one prediction"
        yield Choice("inferer", average, why)


def _across_slices(form: Geometry) -> Iterator[Choice]:
    """How volumes are bent, turned and blurred: not from one slice to the next where slices lie far apart."""
    apart = form.flat_axis if form.spacing is None else coarse_axis(form.spacing)
    apart = form.flat_axis if apart is None else apart
    sigma = [0.0 if axis == apart else round(n / 20, 1) for axis, n in enumerate(form.crop)]
    if apart is None:
        yield Choice("spatial_augmentation#sigma", sigma, "displaced by a twentieth of the crop")
        return
    why = "within slices alone, for those lie far apart"
    yield Choice("spatial_augmentation#sigma", sigma, f"displaced by a twentieth of the crop, {why}")
    turned = [TURN if axis == apart else 0.0 for axis in range(3)]
    yield Choice("spatial_augmentation#rotation", turned, f"degrees about each axis: turned {why}")
    blur = [[0.0, 0.0] if axis == apart else [0.5, 1.0] for axis in range(3)]
    yield Choice("grey_augmentation#0#blur", blur, f"blurred {why}")


def flip_probabilities(facts: Facts) -> tuple[list[float], str]:
    """Return the probability of a flip along each axis, and why."""
    sided = sided_axes(facts.classes)
    told = "; ".join(f"{SIDES[axis]} are told apart by {', '.join(names)}" for axis, names in sided.items())
    told = told or "no class has a side"
    if facts.spatial_dims == 2:
        upright = f"{told}: pictures keep what is up in them"
        columns = 0.0 if 0 in sided else 0.5
        return ([0.0, columns], upright) if sided else ([0.5, 0.5], f"{told}, and pictures no up and down")
    if facts.spacings is None:
        return [0.0 if sided else 0.5] * 3, f"{told}; the files do not tell where the axes point"
    return [0.0 if 0 in sided else 0.5, 0.0, 0.0], f"{told}; a body has two like halves, and does not stand on its head"


def _sampling(facts: Facts, form: Geometry) -> Iterator[Choice]:
    yield Choice("batch_size", batch_size(facts), "many small steps teach more in the same time than few large ones")
    foreground = sum(facts.shares[1:])
    if facts.spatial_dims == 3:
        why = "a crop shows a whole case" if form.covers else "half of the crops lie around a voxel of a class"
        yield Choice("spatial_augmentation#balance_prob", 0.0 if form.covers else 0.5, why)
    elif foreground < SPARSE and not form.covers:
        yield Choice("spatial_augmentation#balance_key", "label", f"only {_percent(foreground)} is foreground")
        yield Choice("spatial_augmentation#balance_prob", 0.5, "half of the crops lie around a pixel of a class")
    full = f"more do not fit into {CACHE_SHARE:.0%} of the free memory, and are read anew each time"
    kept = zip(("train", "validate"), cached_cases(facts, form.size), (facts.training, facts.validation), strict=True)
    for part, room, cases in kept:
        why = f"of {cases} cases: {full}" if room < cases else "all cases stay in memory"
        yield Choice(f"{part}#dataset#cache_num", room, why)


def _loss(facts: Facts) -> Iterator[Choice]:
    weights, why = class_weight(facts)
    if weights is not None:
        yield Choice("loss#class_weight", weights, why)


def _objects(facts: Facts) -> Iterator[Choice]:
    if facts.label_kind != "instances":
        return
    if facts.spatial_dims == 2:
        why = "the border loss leaves a network unsure where objects touch: they grow from where it is sure"
        yield Choice("instances#seeds", "probability", why)
    if facts.smallest:
        size = int(np.percentile(facts.smallest, SMALL))
        yield Choice("instances#min_size", size, "the smallest that were annotated; what is smaller is a fragment")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
