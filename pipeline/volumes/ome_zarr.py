"""OME-Zarr images, versions 0.4 and 0.5, local or behind a URL, of which any box can be read."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE, check_affine
from pipeline.volumes.ome_metadata import NOT_READ, Multiscale, check_shapes, multiscale_of
from pipeline.volumes.region_reader import Box, check_box, pieces
from pipeline.volumes.voxels import check_finite
from pipeline.volumes.zarr_place import Place, library, naming, place_of

MOST_OF_A_CHUNK = 1 << 30  # bytes of a chunk once unpacked, which have to be in memory beside what is read
MANY = 1 << 26  # bytes of a chunk from which on one is read after the other, where zarr would read ten at once
WIDENED = 8  # times that a filter of version 2 may keep a number in more bytes than it has
INDEX_ENTRY = 16  # bytes by which a shard says where one of its chunks lies
# Others, such as pickle, run what a chunk tells them to.
PLAIN_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "endian"),
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma"),
    *("delta", "shuffle", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits"),
    *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
}


@dataclass(frozen=True)
class Standing:
    """Where an image stands in its store.

    Args:
        series: the path of its group in the store, "" for the only one; "0" in a file of several, "A/1/0" in a plate.
        time: its time point, None where the store has no axis for it.
        plane: its plane z, for a 2D network, None where the store has no axis for it.
    """

    series: str = ""
    time: int | None = None
    plane: int | None = None

    def __str__(self) -> str:
        numbers = [f"t{self.time}"] if self.time is not None else []
        numbers += [f"z{self.plane}"] if self.plane is not None else []
        return "/".join([self.series, *numbers] if self.series else numbers)


@dataclass(frozen=True, eq=False)
class OmeImage:
    """One image of a store, with all its time points, channels and planes, at one resolution.

    Args:
        place: its group.
        series: the path from the store to the group.
        multiscale: what its metadata say.
        level: the resolution, 0 for the largest.
        array: zarr's.
    """

    place: Place
    series: str
    multiscale: Multiscale
    level: int
    array: Any

    def length(self, letter: str) -> int | None:
        """Return the size of an axis, None where the image does not have it."""
        names = self.multiscale.names
        return int(self.array.shape[names.index(letter)]) if letter in names else None


class ZarrVolume:
    """One time point (and plane) of an `OmeImage`: a `RegionReader` that can be sent to other processes.

    Its spatial axes are those of the file in their order, z y x as a rule, as in a TIFF stack; absent chunks hold the
    fill value. For the affine see `pipeline.volumes.ome_metadata.Multiscale.affine`.

    Args:
        image: what it is read from.
        standing: which part of it.
        spatial_dims: 2 or 3.
        orientation: where x, y and z point, such as "LPS"; None where nobody knows.
    """

    def __init__(self, image: OmeImage, standing: Standing, spatial_dims: int, orientation: str | None = None) -> None:
        self.image, self.standing = image, standing
        names = image.multiscale.names
        fixed = {"t": standing.time, "z": standing.plane if spatial_dims == 2 else None}
        self._fixed = {names.index(letter): n for letter, n in fixed.items() if n is not None}
        self._axes = tuple(number for number in image.multiscale.spatial if number not in self._fixed)
        self.shape = tuple(int(image.array.shape[number]) for number in self._axes)
        self.chunk = tuple(min(int(image.array.chunks[n]), int(image.array.shape[n])) for n in self._axes)
        self.channels = image.length("c") or 1
        self.dtype = np.dtype(image.array.dtype).newbyteorder("=")
        self.affine = self._affine(orientation, spatial_dims)

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box: (channels, *box)."""
        result = np.empty((self.channels, *check_box(box, self.shape)), self.dtype)
        large = math.prod(self.image.array.chunks) * self.dtype.itemsize > MANY
        with naming(self.image.place):
            for piece in pieces(box, self.chunk) if large else [box]:
                self._read_into(result, piece, box)
        return result

    def _read_into(self, result: np.ndarray, piece: Box, box: Box) -> None:
        inside = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(piece, box, strict=True))
        parts = dict(zip(self._axes, piece, strict=True))
        wanted = tuple(self._fixed.get(n, parts.get(n, slice(None))) for n in range(self.image.array.ndim))
        target = result[:, *inside]
        target[...] = np.asarray(self.image.array[wanted]).reshape(target.shape)
        try:
            check_finite(target)
        except InputError as error:
            begin = tuple(part.start for part in piece)
            reason = f"{error.reason} of the box that begins at {begin}"
            raise InputError(reason, file=str(self.image.place), remedy=error.remedy) from error

    def _affine(self, orientation: str | None, spatial_dims: int) -> np.ndarray:
        level = self.image.multiscale.levels[self.image.level]
        affine = self.image.multiscale.affine(level, orientation if spatial_dims == 3 else None)
        if spatial_dims == 2 and len(self.image.multiscale.spatial) == 3:
            whole, affine = self.image.multiscale.sizes(level), np.eye(4)
            for axis, number in enumerate(self._axes):
                affine[axis, axis], affine[axis, 3] = whole[number]
        check_affine(affine)
        return affine


class OmeZarr:
    """A store with one image, or with several: the series of a file, the fields of a plate.

    Args:
        place: the store.
        series: the paths of the groups of its images, from the store on.
        level: the resolution to read, 0 for the largest.
        orientation: where x, y and z point in the patient, such as "LPS", for a store that does not say it.
    """

    def __init__(self, place: Place, series: tuple[str, ...], level: int = 0, orientation: str | None = None) -> None:
        self.place, self.series, self.level, self.orientation = place, series, level, orientation

    def images(self, spatial_dims: int) -> list[ZarrVolume]:
        """Return every image that stands for itself: of each series each time point, and in 2D each plane z."""
        return list(itertools.chain.from_iterable(self._volumes(series, spatial_dims) for series in self.series))

    def _volumes(self, series: str, spatial_dims: int) -> Iterator[ZarrVolume]:
        place = self.place.below(series) if series else self.place
        with naming(place):
            image = _open_image(place, series, self.level)
            dims = len(image.multiscale.spatial)
            if dims < spatial_dims:
                remedy = "use a 2D bundle"
                raise InputError(f"holds a {dims}D image; this bundle takes {spatial_dims}D volumes", remedy=remedy)
            times = _numbers(image.length("t"))
            planes = _numbers(image.length("z")) if spatial_dims == 2 else [None]
            for time, plane in itertools.product(times, planes):
                yield ZarrVolume(image, Standing(series, time, plane), spatial_dims, self.orientation)


def open_ome_zarr(source: str | os.PathLike[str], level: int = 0, orientation: str | None = None) -> OmeZarr:
    """Open a store: one image, the series that bioformats2raw writes, or the fields of a plate or of a well.

    Args:
        source: a folder, or a URL that fsspec knows, such as ``s3://bucket/image.zarr``.
        level: the resolution to read, 0 for the largest.
        orientation: where the axes x, y and z point in the patient, such as "LPS" for what ITK wrote; None leaves it
            to the store's own "orientation", and places the image as a stack of pages where there is none.
    """
    library("zarr")
    place = place_of(source)
    with naming(place):
        return OmeZarr(place, tuple(_series(place)), level, orientation)


def _numbers(length: int | None) -> Iterable[int | None]:
    return [None] if length is None else range(length)


def _fields(place: Place) -> tuple[str, Mapping[str, Any]]:
    """Return the version that a group's format stands for, and its metadata."""
    node = place.read_json("zarr.json")
    if node is not None:
        attributes = node.get("attributes") or {}
        if node.get("node_type") != "group" or not isinstance(attributes, dict):
            raise InputError("is an array of zarr, no image", remedy="name the folder above it, which describes it")
        fields = attributes.get("ome") or {}
        return "0.5", fields if isinstance(fields, dict) else {}
    if place.read(".zarray") is not None:
        raise InputError("is an array of zarr, no image", remedy="name the folder above it, which describes it")
    fields = place.read_json(".zattrs")
    if fields is None and place.read(".zgroup") is None:
        reason = "is no zarr store, or there is nothing: it has neither zarr.json nor .zgroup"
        remedy = "correct the URL, and look whether its server answers" if place.is_url else "correct the path"
        raise InputError(reason, remedy=remedy)
    return "0.4", fields or {}


def _series(place: Place) -> Iterator[str]:
    """Yield the paths of the groups of a store that are images."""
    _, fields = _fields(place)
    if "image-label" in fields:
        raise InputError("is a label map, no image", remedy="name the image that it belongs to")
    if "multiscales" in fields:
        yield ""
    elif isinstance(fields.get("plate"), dict):
        for well in _paths(fields["plate"].get("wells"), "plate"):
            yield from (f"{well}/{image}" for image in _well(place.below(well)))
    elif isinstance(fields.get("well"), dict):
        yield from _well(place)
    elif "bioformats2raw.layout" in fields:
        yield from _file_series(place)
    elif "labels" in fields:
        raise InputError("holds label maps, no image", remedy="name the image that they belong to")
    else:
        raise InputError("has no multiscales, by which OME-Zarr describes an image", remedy=NOT_READ)


def _well(place: Place) -> Iterator[str]:
    _, fields = _fields(place)
    well = fields.get("well")
    yield from _paths(well.get("images") if isinstance(well, dict) else None, f"well '{place}'")


def _paths(entries: object, of: str) -> list[str]:
    found = [one.get("path") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    if not found or not all(isinstance(path, str) and path for path in found):
        raise InputError(f"the {of} names no images", remedy=RESTORE)
    return [str(path) for path in found]


def _file_series(place: Place) -> Iterator[str]:
    """Yield the series that bioformats2raw wrote: those that its group OME names, else 0, 1, 2, ..."""
    ome = place.below("OME")
    told = None
    if any(ome.read(mark) is not None for mark in ("zarr.json", ".zattrs")):
        told = _fields(ome)[1].get("series")
    if isinstance(told, list) and told and all(isinstance(path, str) for path in told):
        yield from told
        return
    number = 0
    while any(place.below(str(number)).read(mark) is not None for mark in ("zarr.json", ".zattrs")):
        yield str(number)
        number += 1
    if not number:
        raise InputError("holds no series", remedy=RESTORE)


def _open_image(place: Place, series: str, level: int) -> OmeImage:
    version, fields = _fields(place)
    if "image-label" in fields:
        raise InputError("is a label map, no image", remedy="name the image that it belongs to")
    multiscale = multiscale_of(fields, version)
    count = len(multiscale.levels)
    if not 0 <= level < count:
        raise InputError(f"has no level {level}, but {count}, counted from 0", remedy="choose another level")
    arrays = {number: _open_array(place, multiscale, number) for number in range(count)}
    found = {number: array for number, array in arrays.items() if array is not None}
    if level not in found:
        path = multiscale.levels[level].path
        raise InputError(f"lacks its level {level}, the array '{path}'", remedy="fetch the whole store again")
    check_shapes(multiscale, level, {number: array.shape for number, array in found.items()})
    _check_array(found[level])
    return OmeImage(place, series, multiscale, level, _guarded_array(place, multiscale, level, found[level]))


def _open_array(place: Place, multiscale: Multiscale, level: int) -> Any:
    """Open the array of a level; None where there is none."""
    zarr = library("zarr")
    path = multiscale.levels[level].path
    here, old = place.below(path), multiscale.version == "0.4"
    written = here.read_json(".zarray" if old else "zarr.json")
    if written is None:
        return None
    _check_codecs(written)
    array = zarr.open_array(here.store(), mode="r", zarr_format=2 if old else 3)
    axes = len(multiscale.axes)
    if array.ndim != axes:
        reason = f"its array '{path}' has the shape {array.shape}, and {axes} axes have names"
        raise InputError(reason, remedy=RESTORE)
    if min(array.shape) < 1:
        raise InputError(f"has an axis of size 0: shape {array.shape}", remedy=RESTORE)
    return array


def _guarded_array(place: Place, multiscale: Multiscale, level: int, array: Any) -> Any:
    """Open an array again such that none of its chunks unpacks to more than it is said to hold."""
    if array.shards:  # what is read of them begins anywhere
        return array
    from pipeline.volumes.zarr_guard import guarded

    metadata = array.metadata.to_dict()
    most = math.prod(array.chunks) * np.dtype(array.dtype).itemsize * (WIDENED if metadata.get("filters") else 1)
    store = guarded(place.below(multiscale.levels[level].path).store(), _codecs_of(metadata), most)
    return library("zarr").open_array(store, mode="r", zarr_format=array.metadata.zarr_format)


def _check_array(array: Any) -> None:
    """Raise for voxels that are no numbers, and for chunks that no memory holds."""
    kind = np.dtype(array.dtype)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        reason = f"holds {kind} voxels, where whole or real numbers are expected"
        raise InputError(reason, remedy="store colours as channels, and complex numbers as two")
    unpacked = math.prod(array.chunks) * kind.itemsize
    index = math.prod(array.shards) // max(math.prod(array.chunks), 1) * INDEX_ENTRY if array.shards else 0
    if max(unpacked, index) > MOST_OF_A_CHUNK:
        reason = f"a chunk of {array.chunks} voxels takes {max(unpacked, index) / 2**30:.1f} GiB of memory"
        raise InputError(reason, remedy="store the image in smaller chunks, such as 128 x 128 x 128")
    _check_codecs(array.metadata.to_dict())


def _check_codecs(metadata: Mapping[str, Any]) -> None:
    if odd := sorted(_codecs_of(metadata) - PLAIN_CODECS):
        raise InputError(
            f"its chunks are packed by {', '.join(odd)}, which is not supported", remedy="use blosc, zstd or gzip"
        )


def _codecs_of(metadata: Mapping[str, Any]) -> set[str]:
    """Return the names of all codecs of an array's metadata, of either version."""
    used = [metadata.get("compressor"), *(metadata.get("filters") or ()), *(metadata.get("codecs") or ())]
    return set(_codecs(used))


def _codecs(configurations: Iterable[Any]) -> Iterator[str]:
    """Yield the names of codecs, those within shards too."""
    for one in configurations:
        if one is None:
            continue
        yield str(one.get("id") or one.get("name")).removeprefix("numcodecs.")
        inner = one.get("configuration") or {}
        yield from _codecs([*inner.get("codecs", ()), *inner.get("index_codecs", ())])
