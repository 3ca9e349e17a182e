"""What the rules of a plan look at: the training cases of a list in a few numbers, and the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np

from pipeline.datalists.datalist import DataList
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.datalists.list_findings import AXIS
from pipeline.errors import InputError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Facts:
    """The cases that train and validate, and the device. Test cases are counted and not looked at.

    Args:
        spatial_dims: 2 or 3.
        classes: names, background first.
        channels: names.
        label_kind: "classes" or "instances".
        training: number of cases.
        validation: number of cases.
        test: number of cases with a label.
        shapes: pixels or voxels per axis of each case; of volumes with a geometry, along the patient's axes.
        spacings: mm per axis, in the same order; None where the files know none.
        lows: 0.5th percentile of each case and channel.
        medians: the median of each case and channel.
        shares: mean share of each class in the voxels, background first.
        smallest: voxels of the smallest numbered object of each case that has some.
        device: "cpu" or "cuda".
        cores: threads that compute.
        memory: bytes that are free: of the GPU where there is one, else of the machine.
        cache_memory: bytes of the machine that are free for cases that are kept in memory.
    """

    spatial_dims: int
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    label_kind: str
    training: int
    validation: int
    test: int
    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...] | None
    lows: tuple[tuple[float, ...], ...]
    medians: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]
    smallest: tuple[int, ...]
    device: str
    cores: int
    memory: int
    cache_memory: int

    @property
    def median_shape(self) -> tuple[int, ...]:
        """The median of the cases' sizes, axis by axis."""
        return tuple(round(median(lengths)) for lengths in zip(*self.shapes, strict=True))

    @property
    def median_spacing(self) -> tuple[float, ...] | None:
        """The median of the cases' spacings, axis by axis."""
        if self.spacings is None:
            return None
        return tuple(median(edges) for edges in zip(*self.spacings, strict=True))


@dataclass(frozen=True)
class Machine:
    """Where the training is to run; the arguments are those of `Facts`."""

    device: str
    cores: int
    memory: int
    cache_memory: int


def gather(data_list: DataList, fingerprints: Sequence[Fingerprint], machine: Machine) -> Facts:
    """Return the facts of a list that has been looked at.

    Args:
        data_list: the list.
        fingerprints: of its cases, as `examine_cases` takes them for the fold that is to validate.
        machine: where the training is to run.
    """
    seen = [case for case in fingerprints if case.split != "test" and case.classes]
    if not any(case.split == "training" for case in seen):
        reason = f"no training case of '{data_list.name}' could be read with its label"
        raise InputError(reason, remedy="python -m pipeline check says what is wrong with each")
    placed = data_list.spatial_dims == 3 and all(case.axcodes and case.spacing for case in seen)
    return Facts(
        spatial_dims=data_list.spatial_dims,
        classes=data_list.classes,
        channels=data_list.channels,
        label_kind=data_list.label_kind,
        training=sum(case.split == "training" for case in seen),
        validation=sum(case.split == "validation" for case in seen),
        test=sum(case.split == "test" and case.label is not None for case in data_list.cases),
        shapes=tuple(_along_patient(case, case.shape) if placed else case.shape for case in seen),
        spacings=tuple(_along_patient(case, case.spacing or ()) for case in seen) if placed else None,
        lows=tuple(tuple(channel.low for channel in case.channels) for case in seen),
        medians=tuple(tuple(channel.median for channel in case.channels) for case in seen),
        shares=_shares(seen),
        smallest=tuple(case.smallest for case in seen if case.smallest is not None),
        device=machine.device,
        cores=machine.cores,
        memory=machine.memory,
        cache_memory=machine.cache_memory,
    )


def _along_patient(case: Fingerprint, values: Sequence[Number]) -> tuple[Number, ...]:
    """Values of a file's three axes in the order of the patient's."""
    places = {AXIS[letter]: index for index, letter in enumerate(case.axcodes or "")}
    return tuple(values[places[axis]] for axis in range(3))


def _shares(cases: Sequence[Fingerprint]) -> tuple[float, ...]:
    counts = [[volume.voxels / math.prod(case.shape) for volume in case.classes or ()] for case in cases]
    return tuple(np.mean(counts, axis=0).tolist())
