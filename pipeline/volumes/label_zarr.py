"""Label maps as OME-Zarr label images, written box by box from several processes."""

from __future__ import annotations

import colorsys
import math
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from pipeline.errors import InputError
from pipeline.volumes.atomic import FULL, write_json
from pipeline.volumes.ome_zarr import OmeImage, Standing
from pipeline.volumes.region_reader import Box, check_box
from pipeline.volumes.zarr_place import Place, library, naming

CHUNK = {3: 128, 2: 1024}  # voxels along each axis: two MiB or one of classes, a few kilobytes once packed
COLOURS = 256  # classes that get one; instances are left to the viewer's own
GOLDEN = 0.618034  # of the circle of hues between a class's colour and the next one's
LOCK = 60  # seconds that one process may take to add a name to the list of label images


class ZarrLabels:
    """The label map of one volume: a `LabelStore` that can be sent to other processes.

    Args:
        array: zarr's.
        fixed: the number along each axis of the array that does not belong to the volume, such as {0: 3} for t = 3.
    """

    def __init__(self, array: Any, fixed: Mapping[int, int] | None = None) -> None:
        self.array, self._fixed = array, dict(fixed or {})
        self._axes = tuple(number for number in range(array.ndim) if number not in self._fixed)
        self.shape = tuple(int(array.shape[number]) for number in self._axes)
        self.chunk = tuple(int(array.chunks[number]) for number in self._axes)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Put the labels (*box) of a box in their place; boxes that share no chunk may be written side by side."""
        size = check_box(box, self.shape)
        if labels.shape != size or labels.dtype.kind not in "biu":
            raise ValueError(f"labels of shape {labels.shape} and type {labels.dtype} for the box {box}")
        limit = np.iinfo(self.dtype).max
        if labels.size and (int(labels.max()) > limit or int(labels.min()) < 0):
            raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit into {self.dtype}")
        wanted = self._selection(box)
        shape = tuple(part.stop - part.start for part in wanted)
        try:
            self.array[wanted] = labels.astype(self.dtype, copy=False).reshape(shape)
        except OSError as error:
            if error.errno not in FULL:
                raise
            remedy = "free space on this disk or choose another folder"
            raise InputError("disk full", file=self._file, remedy=remedy) from error

    def read(self, box: Box) -> np.ndarray:
        """Return the labels (*box) that were written, 0 where none were."""
        size = check_box(box, self.shape)
        with naming(Place(self._file)):
            return np.asarray(self.array[self._selection(box)]).reshape(size).astype(self.dtype, copy=False)

    @property
    def _file(self) -> str:
        return str(self.array.store.root)

    def _selection(self, box: Box) -> tuple[slice, ...]:
        parts = dict(zip(self._axes, box, strict=True))
        ones = {number: slice(n, n + 1) for number, n in self._fixed.items()}
        return tuple(parts.get(number) or ones[number] for number in range(self.array.ndim))


class LabelImage:
    """A label image on disk, ``<output>/<series>/labels/<name>``, on the grid of an image without its channels.

    Its description, by which viewers find it, is written by `announce` alone, once all labels and all coarser levels
    are there: a label image with a description is complete. Whoever comes first makes it, others open it.

    Args:
        output: a folder of this machine, such as ``out/case.ome.zarr``; it may be the image's own store.
        name: of the label map.
        image: what the labels belong to; its version of OME-Zarr becomes theirs.
        dtype: unsigned: `smallest_dtype` of the highest class, uint32 or uint64 for instances.
        spatial_dims: 2 keeps the planes of a 3D image in chunks of their own, for each is written by itself.
        chunk: voxels along each spatial axis of the network that are stored together; 128 or 1024 unless given.
        replace: remove an earlier label map of this name.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        name: str,
        image: OmeImage,
        dtype: np.dtype | type,
        spatial_dims: int = 3,
        chunk: tuple[int, ...] | None = None,
        replace: bool = False,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise InputError(f"the name '{name}' of a label map", remedy="use letters, digits, _ and -")
        if np.dtype(dtype).kind != "u":
            raise ValueError(f"labels are unsigned, not {np.dtype(dtype)}")
        self.image, self.name, self.version = image, name, image.multiscale.version
        self.names = tuple(letter for letter in image.multiscale.names if letter != "c")
        self.folder = label_folder(output, image, name)
        self.chunk = _chunks(self._shape(), self.names, spatial_dims, chunk)
        if replace:
            self.withdraw()
            _remove(self.folder)
        self._make_groups(Path(os.path.abspath(output)))
        self._make(np.dtype(dtype))
        self.array = self.level(0)
        found = (self.array.shape, np.dtype(self.array.dtype), self.array.chunks)
        wanted = (self._shape(), np.dtype(dtype), self.chunk)
        if found != wanted:
            reason = f"is another label map, of shape, type and chunks {found}, where {wanted} is to be written"
            raise InputError(reason, file=self.folder, remedy="remove it, or choose another output folder")

    def labels(self, standing: Standing) -> ZarrLabels:
        """Return where the labels of one time point (and plane) are kept."""
        fixed = {"t": standing.time, "z": standing.plane}
        return ZarrLabels(self.array, {self.names.index(key): n for key, n in fixed.items() if n is not None})

    def level(self, number: int) -> Any:
        """Return zarr's array of a level that is there."""
        zarr = library("zarr")
        from zarr.storage import LocalStore

        with naming(Place(str(self.folder))):
            return zarr.open_array(LocalStore(self.folder / str(number)), mode="r+", zarr_format=self._format)

    def make_level(self, number: int, shape: tuple[int, ...]) -> Any:
        """Make the empty array of a coarser level, in place of an earlier one."""
        _remove(self.folder / str(number))
        return self._array(self.folder / str(number), shape, self.array.dtype)

    def is_announced(self) -> bool:
        """Tell whether the label image is complete."""
        return "multiscales" in self._fields()

    def withdraw(self) -> None:
        """Take the description back, before labels are changed."""
        if self.folder.is_dir() and self.is_announced():
            _write_group(self.folder, self.version, {})

    def announce(self, levels: list[tuple[float, ...]], classes: Mapping[int, str] | None = None) -> None:
        """Write the description, and put the name into the list of label images.

        Args:
            levels: how many voxels of level 0 go along each axis into one of each level: (1, 1, 1) first.
            classes: the name of each label value but 0; None for instances.
        """
        _write_group(self.folder, self.version, self._description(levels, classes or {}))
        with filelock.FileLock(self.folder.parent / ".lock", timeout=LOCK):
            listed = _read_group(self.folder.parent, self.version).get("labels", [])
            if self.name not in listed:
                _write_group(self.folder.parent, self.version, {"labels": [*listed, self.name]})

    def _description(self, levels: list[tuple[float, ...]], classes: Mapping[int, str]) -> dict[str, Any]:
        kept = [number for number, letter in enumerate(self.image.multiscale.names) if letter != "c"]
        here = self.image.multiscale.levels[self.image.level]
        translation = [here.translation[number] for number in kept]
        datasets = []
        for number, factors in enumerate(levels):
            scale = [here.scale[axis] * factor for axis, factor in zip(kept, factors, strict=True)]
            steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
            datasets.append(
                {"path": str(number), "coordinateTransformations": steps if any(translation) else steps[:1]}
            )
        axes = [dict(self.image.multiscale.axes[number]) for number in kept]
        entry: dict[str, Any] = {"name": self.name, "axes": axes, "datasets": datasets, "type": "every second voxel"}
        label: dict[str, Any] = {"source": {"image": self._source()}}
        shown = {value: text for value, text in classes.items() if 0 < value < COLOURS}
        if shown:
            label["colors"] = [{"label-value": value, "rgba": _colour(value)} for value in shown]
            label["properties"] = [{"label-value": value, "class": text} for value, text in shown.items()]
        if self.version == "0.4":
            entry, label = {"version": "0.4", **entry}, {"version": "0.4", **label}
        return {"multiscales": [entry], "image-label": label}

    def _source(self) -> str:
        place = self.image.place
        return str(place) if place.is_url else os.path.relpath(str(place), self.folder) + "/"

    def _shape(self) -> tuple[int, ...]:
        shape = zip(self.image.multiscale.names, self.image.array.shape, strict=True)
        return tuple(int(length) for letter, length in shape if letter != "c")

    @property
    def _format(self) -> int:
        return 2 if self.version == "0.4" else 3

    def _fields(self) -> Mapping[str, Any]:
        return _read_group(self.folder, self.version)

    def _make_groups(self, output: Path) -> None:
        """Make the groups above the label map; those that are there stay as they are."""
        above = [folder for folder in self.folder.parents if folder == output or output in folder.parents]
        for folder in reversed(above):
            mine, other = ("zarr.json", ".zgroup") if self._format == 3 else (".zgroup", "zarr.json")
            if (folder / other).exists() and not (folder / mine).exists():
                reason = f"is a zarr store of another version than {self.version}, which the image has"
                raise InputError(reason, file=folder, remedy="choose another output folder")
            if not (folder / mine).exists():
                _write_group(folder, self.version, {"labels": []} if folder == self.folder.parent else {})

    def _make(self, dtype: np.dtype) -> None:
        """Make the group with an empty level 0, whole or not at all."""
        if self.folder.exists():
            return
        made = self.folder.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{self.name}")
        try:
            self._array(made / "0", self._shape(), dtype)
            _write_group(made, self.version, {})
            made.rename(self.folder)
        except OSError:
            if not self.folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _array(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return make_array(folder, shape, dtype, self.chunk, self._format, self.names)


def label_folder(output: str | os.PathLike[str], image: OmeImage, name: str) -> Path:
    """Return where a label image lies."""
    return Path(os.path.abspath(output), image.series, "labels", name)


def make_array(
    folder: Path,
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    chunk: tuple[int, ...],
    zarr_format: int = 3,
    names: tuple[str, ...] | None = None,
) -> Any:
    """Make an array of zeros that takes no room until something is written; chunks of zeros are not kept."""
    zarr = library("zarr")
    from zarr.storage import LocalStore

    if zarr_format == 2:
        packed: Any = library("numcodecs").Blosc("zstd", clevel=1)
        keys, named = {"name": "v2", "separator": "/"}, None
    else:
        packed = library("zarr.codecs").BloscCodec(cname="zstd", clevel=1)
        keys, named = {"name": "default", "separator": "/"}, names
    return zarr.create_array(
        LocalStore(folder),
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunk,
        compressors=packed,
        fill_value=0,
        zarr_format=zarr_format,
        dimension_names=named,
        chunk_key_encoding=keys,
    )


def scratch_labels(
    folder: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype | type, chunk: tuple[int, ...] | None = None
) -> ZarrLabels:
    """Return a label map in a folder of its own, for what is written to another format in the end.

    An array that lies there is opened as it is, if it is the same.

    Args:
        folder: of the array.
        shape: voxels along each axis.
        dtype: unsigned.
        chunk: voxels that are stored together; 128 along each of three axes or 1024 along each of two unless given.
    """
    zarr = library("zarr")
    from zarr.storage import LocalStore

    chunk = _chunks(shape, "zyx"[-len(shape) :], len(shape), chunk)
    path = Path(folder)
    if not (path / "zarr.json").exists():
        made = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            make_array(made, shape, dtype, chunk)
            made.rename(path)
        except OSError:
            if not (path / "zarr.json").exists():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    with naming(Place(str(path))):
        found = ZarrLabels(zarr.open_array(LocalStore(path), mode="r+", zarr_format=3))
    if (found.shape, found.dtype, found.chunk) != (tuple(shape), np.dtype(dtype), chunk):
        raise InputError("holds another label map", file=path, remedy="remove it")
    return found


def smallest_dtype(highest: int) -> np.dtype:
    """Return the smallest unsigned type that holds the highest label."""
    return np.min_scalar_type(highest)


def _chunks(
    shape: tuple[int, ...], names: tuple[str, ...] | str, spatial_dims: int, chunk: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the chunk along every axis: 1 along those that the network does not see."""
    apart = {"t", "z"} if spatial_dims == 2 else {"t"}
    seen = [number for number, letter in enumerate(names) if letter not in apart]
    chunk = (CHUNK[spatial_dims],) * len(seen) if chunk is None else tuple(chunk)
    if len(chunk) != len(seen) or min(chunk) < 1:
        raise ValueError(f"chunks of {chunk} along {len(seen)} axes")
    sizes = dict(zip(seen, chunk, strict=True))
    return tuple(min(sizes.get(number, 1), length) for number, length in enumerate(shape))


def _colour(value: int) -> list[int]:
    red, green, blue = colorsys.hsv_to_rgb(math.fmod(value * GOLDEN, 1.0), 0.8, 1.0)
    return [round(255 * part) for part in (red, green, blue)] + [255]


def _remove(folder: Path) -> None:
    """Remove a folder, if it is there: out of sight at once, whatever its removal takes."""
    if folder.exists():
        aside = folder.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{folder.name}")
        folder.rename(aside)
        shutil.rmtree(aside)


def _read_group(folder: Path, version: str) -> Mapping[str, Any]:
    place = Place(str(folder))
    if version == "0.4":
        return place.read_json(".zattrs") or {}
    found: Mapping[str, Any] = ((place.read_json("zarr.json") or {}).get("attributes") or {}).get("ome") or {}
    return found


def _write_group(folder: Path, version: str, fields: Mapping[str, Any]) -> None:
    """Write the metadata of a group; what it says appears at once, or not at all."""
    if version == "0.4":
        write_json(folder / ".zgroup", {"zarr_format": 2})
        write_json(folder / ".zattrs", fields)
    else:
        attributes = {"ome": {"version": version, **fields}} if fields else {}
        write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
