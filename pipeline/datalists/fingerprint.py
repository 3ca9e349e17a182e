"""A case in numbers: size, spacing, intensities, and how much of each class it holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np

from pipeline.datalists.datalist import Case, DataList
from pipeline.volumes.header import Volume, VolumeHeader

WITH_GEOMETRY = ("NIfTI", "MetaImage", "NRRD", "DICOM")
PIECE = 1 << 22  # voxels that are looked at in one go, so that a large volume is not held in float64 as well


@dataclass(frozen=True)
class Intensities:
    """The values of one channel over the whole image.

    Args:
        channel: its name in the list.
        minimum: smallest value.
        low: 0.5th percentile; this and the other two are of every n-th voxel in an image of n x 4 million.
        median: 50th percentile.
        high: 99.5th percentile.
        maximum: largest value.
        mean: arithmetic mean.
        std: standard deviation.
    """

    channel: str
    minimum: float
    low: float
    median: float
    high: float
    maximum: float
    mean: float
    std: float


@dataclass(frozen=True)
class ClassVolume:
    """How much of one class a label holds; `ml` is None where the file has no geometry, or two axes."""

    name: str
    voxels: int
    ml: float | None


@dataclass(frozen=True)
class Fingerprint:
    """What a planner has to know of one case; `document` and `from_document` are the way to JSON and back.

    Args:
        case: its id.
        split: "training", "validation" or "test".
        format: of the first image file, such as "NIfTI".
        dtype: of its voxels as they are read, such as "int16".
        shape: voxels along each spatial axis, in the file's order.
        spacing: mm along each axis; None for a format without geometry.
        axcodes: where the three axes point, such as "LPS"; None in 2D and without geometry.
        channels: one for each channel of the list.
        classes: one for each class of the list, background first; None without a sound label.
        objects: how many numbered objects the label holds; None unless the list counts instances.
        smallest: voxels of the smallest of them; None where there is none.
    """

    case: str
    split: str
    format: str
    dtype: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    axcodes: str | None
    channels: tuple[Intensities, ...]
    classes: tuple[ClassVolume, ...] | None = None
    objects: int | None = None
    smallest: int | None = None

    @property
    def foreground(self) -> float | None:
        """Share of the voxels that are not background, 0..1; None without a label."""
        return None if self.classes is None else sum(c.voxels for c in self.classes[1:]) / math.prod(self.shape)

    @property
    def extent(self) -> tuple[float, ...] | None:
        """Size along each axis in mm."""
        return None if self.spacing is None else tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def document(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Fingerprint:
        """Rebuild from `document`, also after a way through JSON."""
        fields = dict(document)
        fields["shape"] = tuple(fields["shape"])
        fields["spacing"] = None if fields["spacing"] is None else tuple(fields["spacing"])
        fields["channels"] = tuple(Intensities(**entry) for entry in fields["channels"])
        if fields["classes"] is not None:
            fields["classes"] = tuple(ClassVolume(**entry) for entry in fields["classes"])
        return cls(**fields)


def take_fingerprint(
    case: Case, split: str, data_list: DataList, images: Sequence[Volume], counts: Mapping[int, int] | None
) -> Fingerprint:
    """Measure a case whose files are sound.

    Args:
        case: the case.
        split: where it serves.
        data_list: names channels and classes.
        images: its image files; their channels are those of the list.
        counts: voxels of each value of its label; None without one.
    """
    first = images[0]
    placed = first.format in WITH_GEOMETRY
    channels = [channel for image in images for channel in image.array]
    sizes = _object_sizes(counts) if counts is not None and data_list.label_kind == "instances" else None
    return Fingerprint(
        case=case.id,
        split=split,
        format=first.format,
        dtype=str(first.dtype),
        shape=tuple(int(n) for n in first.shape),
        spacing=first.spacing if placed else None,
        axcodes=axcodes_of(first) if placed and len(first.shape) == 3 else None,
        channels=tuple(_measure(name, values) for name, values in zip(data_list.channels, channels, strict=True)),
        classes=None if counts is None else _class_volumes(counts, data_list, first),
        objects=None if sizes is None else len(sizes),
        smallest=min(sizes) if sizes else None,
    )


def axcodes_of(header: VolumeHeader) -> str:
    """Where the three axes of a file point, such as "RAS" for to the right, to the front, up."""
    return "".join(nib.orientations.aff2axcodes(header.affine))


def count_values(labels: np.ndarray) -> dict[int, int]:
    """Count the voxels of each value in an array of whole numbers."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= 1 << 16 or high >= 1 << 62:  # too many bins to count into
        values, counts = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    bins = np.zeros(high - low + 1, np.int64)
    for piece in _pieces(labels):
        bins += np.bincount(piece.astype(np.int64) - low, minlength=bins.size)
    return {low + int(index): int(bins[index]) for index in np.flatnonzero(bins)}


def digest_voxels(array: np.ndarray, dtype: type[np.number[Any]]) -> str:
    """SHA-256 of an array's shape and its values as `dtype`: equal for .nii and .nii.gz, for int16 and float32."""
    result = hashlib.sha256(repr(array.shape).encode())
    for piece in _pieces(array):
        result.update((piece.astype(dtype) + dtype(0)).data)  # -0.0 + 0 is 0
    return result.hexdigest()


def upright(array: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Return a volume's (x, y, z) turned and flipped to RAS, as a view; what has no geometry, or is 2D, as it is."""
    if header.format not in WITH_GEOMETRY or array.ndim != 3:
        return array
    return nib.orientations.apply_orientation(array, nib.io_orientation(header.affine))


def _object_sizes(counts: Mapping[int, int]) -> list[int]:
    return [voxels for value, voxels in counts.items() if value != 0]


def _class_volumes(counts: Mapping[int, int], data_list: DataList, header: VolumeHeader) -> tuple[ClassVolume, ...]:
    voxels = {0: counts.get(0, 0)}
    if data_list.label_kind == "instances":
        voxels[1] = sum(counts.values()) - voxels[0]
    else:
        voxels = {value: counts.get(value, 0) for value in range(len(data_list.classes))}
    placed = header.format in WITH_GEOMETRY and len(header.shape) == 3
    ml = abs(float(np.linalg.det(header.affine[:3, :3]))) / 1000 if placed else None  # of one voxel
    return tuple(
        ClassVolume(name, voxels[value], None if ml is None else voxels[value] * ml)
        for value, name in enumerate(data_list.classes)
    )


def _measure(name: str, values: np.ndarray) -> Intensities:
    flat = values.reshape(-1)
    low, median, high = np.percentile(flat[:: flat.size // PIECE + 1].astype(np.float64), (0.5, 50, 99.5)).tolist()
    mean = sum(float(piece.sum(dtype=np.float64)) for piece in _pieces(flat)) / flat.size
    squares = sum(float(np.square(piece.astype(np.float64) - mean).sum()) for piece in _pieces(flat))
    std = math.sqrt(squares / flat.size)
    return Intensities(name, float(flat.min()), low, median, high, float(flat.max()), mean, std)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]
