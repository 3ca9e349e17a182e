"""One case's files, looked at: damage, label values, channels, and whether all lie on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.fingerprint import (
    WITH_GEOMETRY,
    Fingerprint,
    Intensities,
    axcodes_of,
    count_values,
    digest_voxels,
    take_fingerprint,
    upright,
)
from pipeline.errors import InputError
from pipeline.volumes.header import Kind, Volume, VolumeHeader
from pipeline.volumes.reading import read_header, read_volume
from pipeline.volumes.same_grid import grid_difference, turn_between

FLAT = (1e-6, 1e-3)  # of the standard deviation: a range of 99 % of the values that is lost, and one that is odd
CHANCE = 100  # voxels; smaller objects may be equal in two labels by chance
RESAMPLE = "resample one onto the other's grid (labels by nearest neighbour)"


class Oddity(NamedTuple):
    """What is odd but may be meant; the file is named as in the list."""

    reason: str
    file: str
    remedy: str


@dataclass
class CaseFindings:
    """What one case's files show.

    Args:
        problems: what would spoil a training or an evaluation.
        oddities: what may be meant.
        fingerprint: the case in numbers; None unless its images are sound.
        foreground: whether its label holds more than background; None without a label that can be read.
        images: the image files as named in the list, with a digest of each channel's voxels in RAS order; constant
            channels are left out.
        label: a digest of the label's voxels; None where fewer than `CHANCE` are not of its most frequent value.
    """

    problems: list[InputError] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)
    fingerprint: Fingerprint | None = None
    foreground: bool | None = None
    images: dict[str, list[str]] = field(default_factory=dict)
    label: str | None = None


def look_at_case(case: Case, split: str, data_list: DataList, root: Path) -> CaseFindings:
    """Read all files of a case and note everything that is wrong with them.

    Args:
        case: the case.
        split: where it serves.
        data_list: says what its files hold.
        root: the folder that its paths are relative to.
    """
    return _Look(case, split, data_list, root).findings()


class _Look:
    """The look at one case: what all its steps need, and what they have found so far."""

    def __init__(self, case: Case, split: str, data_list: DataList, root: Path) -> None:
        self.case, self.split, self.data_list, self.root = case, split, data_list, root
        self.found = CaseFindings()

    def findings(self) -> CaseFindings:
        images = [self._read(file, "image") for file in self.case.images]
        label = None if self.case.label is None else self._read(self.case.label, "label")
        self._check_grids([image for image in images if image is not None], label)
        sound = self._check_images(images)
        counts = self._check_label(label) if isinstance(label, Volume) else None
        if sound:
            volumes = [image for image in images if isinstance(image, Volume)]
            if label is not None and label.shape != volumes[0].shape:
                counts = None
            numbers = take_fingerprint(self.case, self.split, self.data_list, volumes, counts)
            files = [volume.file for volume in volumes for _ in volume.array]
            if all([self._check_outliers(*pair) for pair in zip(numbers.channels, files, strict=True)]):
                self.found.fingerprint = numbers
        return self.found

    def _problem(self, reason: str, file: Path, remedy: str) -> None:
        self.found.problems.append(InputError(reason, case=self.case.id, file=file, remedy=remedy))

    def _read(self, name: str, kind: Kind) -> VolumeHeader | None:
        """Read a file; of one with damaged voxels return the header, whose grid can still be compared."""
        file, dims = self.root / name, self.data_list.spatial_dims
        try:
            return read_volume(file, dims, self.case.id, kind)
        except InputError as error:
            self.found.problems.append(error)
        with suppress(InputError):
            return read_header(file, dims, self.case.id, kind)
        return None

    def _check_images(self, images: Sequence[VolumeHeader | None]) -> bool:
        """Check values and number of channels, and tell whether a fingerprint can be taken."""
        names, known = self.data_list.channels, [image for image in images if image is not None]
        volumes = [image for image in known if isinstance(image, Volume)]
        in_range = [self._check_intensities(image) for image in volumes]
        count = sum(image.channels for image in known)
        if len(known) == len(images) and count != len(names):
            reason = f"{count} channels, but the list names {len(names)}: {', '.join(names)}"
            self._problem(reason, known[0].file, "correct the list's channels or convert the image")
            return False
        return len(volumes) == len(images) and all(in_range)

    def _check_intensities(self, image: Volume) -> bool:
        low, high = image.array.min(), image.array.max()
        name = image.file.relative_to(self.root).as_posix()
        if image.dtype == np.float64 and max(-low, high) > np.finfo(np.float32).max:
            reason = f"intensities up to {max(-low, high):g} are beyond the range of float32"
            self._problem(reason, image.file, "replace the outliers, or scale the image")
            return False
        if low == high:
            self.found.oddities.append(Oddity(f"every value of the image is {low}", name, "look at the image"))
        else:
            channels = [channel for channel in image.array if channel.min() != channel.max()]
            self.found.images[name] = [digest_voxels(upright(channel, image), np.float32) for channel in channels]
        return True

    def _check_outliers(self, channel: Intensities, file: Path) -> bool:
        """Tell whether dividing by the standard deviation leaves a contrast.

        Of 10^6 voxels within 0..1000, one of 10^9 makes the deviation 10^6: all others come to lie within 0.001, where
        the odd begins. One of 10^12 leaves 10^-6, and float32 numbers about 1 hardly hold that.
        """
        spread, lowest, highest = channel.high - channel.low, channel.minimum, channel.maximum
        lost, odd = (0 < spread < part * channel.std for part in FLAT)
        reason = (
            f"values of '{channel.channel}' go from {lowest:.4g} to {highest:.4g}, but 99 % lie within "
            f"{channel.low:.4g}..{channel.high:.4g}: normalisation makes these {'' if lost else 'nearly '}equal"
        )
        remedy = "replace the outliers in the image, or clip them"
        if lost:
            self._problem(reason, file, remedy)
        elif odd:
            self.found.oddities.append(Oddity(reason, file.relative_to(self.root).as_posix(), remedy))
        return not lost

    def _check_label(self, label: Volume) -> dict[int, int] | None:
        """Check the values, and return how many voxels have each; None where they are wrong."""
        counts = count_values(label.array)
        self.found.foreground = any(value != 0 for value in counts)
        if sum(sorted(counts.values())[:-1]) >= CHANCE:
            self.found.label = digest_voxels(upright(label.array[0], label), np.int64)
        low, high, top = min(counts), max(counts), len(self.data_list.classes) - 1
        if self.data_list.label_kind == "instances":
            if low < 0:
                self._problem(f"label value {low} is negative", label.file, "number the objects 1, 2, ...")
            if high > np.iinfo(np.int64).max:
                self._problem(f"label {high} exceeds 2^63", label.file, "renumber the objects")
            return counts if low >= 0 and high <= np.iinfo(np.int64).max else None
        wrong = sorted(value for value in counts if not 0 <= value <= top)
        if wrong:
            shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
            reason = f"label values {shown} are not among the classes 0..{top} ({', '.join(self.data_list.classes)})"
            self._problem(reason, label.file, "renumber the label, or name its classes in the list")
        return None if wrong else counts

    def _check_grids(self, images: Sequence[VolumeHeader], label: VolumeHeader | None) -> None:
        """A case's further channels and its label lie on the grid of its first file."""
        for other in [*images[1:], *([label] if label and images else [])]:
            first = images[0]
            if other.shape != first.shape:
                spacings = f", spacing {_mm(other)} and {_mm(first)}" if _both_placed(first, other) else ""
                reason = f"shape {other.shape} differs from {first.shape} of '{first.file}'{spacings}"
                self._problem(reason, other.file, RESAMPLE)
            elif other is label and len(first.shape) == 2 and not _both_placed(first, other):
                self._note_other_axes(first, other)
            elif difference := _difference(first, other):
                self._problem(f"{difference} of '{first.file}'", other.file, f"correct its header, or {RESAMPLE}")

    def _note_other_axes(self, first: VolumeHeader, label: VolumeHeader) -> None:
        """Pictures have (row, column), a slice with geometry (x, y): a square label may be transposed unseen."""
        if _is_placed(first) != _is_placed(label) and first.shape[0] == first.shape[1]:
            reason = f"its axes are those of {label.format}, the image's those of {first.format}: they may be swapped"
            remedy = f"look at both, or convert the label to {first.format}"
            self.found.oddities.append(Oddity(reason, label.file.relative_to(self.root).as_posix(), remedy))


def _difference(first: VolumeHeader, other: VolumeHeader) -> str:
    """Say in which respect a grid of the same shape is another one, as the start of a sentence; "" if in none."""
    kind = grid_difference(first, other)
    if kind is None:
        return ""
    if not _both_placed(first, other):
        if _is_placed(first):
            return f"has no geometry ({other.format}), unlike the voxels"
        return f"has a geometry, unlike the voxels ({first.format})"
    if kind == "spacing":
        return f"spacing {_mm(other)} differs from {_mm(first)}"
    if len(first.shape) == 3 and axcodes_of(first) != axcodes_of(other):
        return f"its axes point along {axcodes_of(other)}, not {axcodes_of(first)} like those"
    if kind == "direction":
        return f"its axes are turned by up to {turn_between(first, other):.3g} degrees against those"
    shift = float(np.linalg.norm(first.affine[:3, 3] - other.affine[:3, 3]))
    return f"origin lies {shift:.3g} mm from that"


def _is_placed(header: VolumeHeader) -> bool:
    return header.format in WITH_GEOMETRY


def _both_placed(first: VolumeHeader, other: VolumeHeader) -> bool:
    return _is_placed(first) and _is_placed(other)


def _mm(header: VolumeHeader) -> str:
    return " x ".join(f"{edge:.4g}" for edge in header.spacing) + " mm"
