"""OME-Zarr stores for tests, written by zarr itself with metadata made by hand."""

import numpy as np
import ome_zarr_models.v04 as v04
import ome_zarr_models.v05 as v05
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from pydantic_zarr.v2 import ArraySpec, GroupSpec
from zarr.storage import FsspecStore, LocalStore

SPACE = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}

for model in (v04.Image, v04.ImageLabel, v04.Labels):  # which name types that they import for type checkers alone
    model.model_rebuild(_types_namespace={"ArraySpec": ArraySpec, "GroupSpec": GroupSpec})


def axes_of(letters, unit="micrometer"):
    axes = [{"name": letter, "type": SPACE[letter]} for letter in letters]
    return [axis | {"unit": unit} if axis["type"] == "space" and unit else axis for axis in axes]


def entry_of(letters, scales, unit="micrometer", translations=None, version="0.4", **more):
    """One entry of "multiscales" with a dataset for each of the scales."""
    datasets = []
    for number, scale in enumerate(scales):
        steps = [{"type": "scale", "scale": list(scale)}]
        if translations:
            steps.append({"type": "translation", "translation": list(translations[number])})
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    found = {"name": "made", "axes": axes_of(letters, unit), "datasets": datasets} | more
    return {"version": version, **found} if version == "0.4" else found


def attributes_of(version, fields):
    return fields if version == "0.4" else {"ome": {"version": version, **fields}}


def write_group(place, version, fields):
    store = FsspecStore.from_url(place) if isinstance(place, str) and "://" in place else LocalStore(place)
    group = zarr.open_group(store, mode="a", zarr_format=2 if version == "0.4" else 3)
    group.update_attributes(attributes_of(version, fields))
    return group


def write_image(place, version, arrays, entry, chunks=None, fields=None, **options):
    """Write levels, the largest first, with the metadata that `entry_of` makes; return zarr's group."""
    group = write_group(place, version, {"multiscales": [entry], **(fields or {})})
    for number, array in enumerate(arrays):
        separator = {"name": "v2" if version == "0.4" else "default", "separator": "/"}
        made = group.create_array(
            str(number),
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks or tuple(min(n, 16) for n in array.shape),
            chunk_key_encoding=separator,
            dimension_names=[axis["name"] for axis in entry["axes"]] if version == "0.5" else None,
            **options,
        )
        made[...] = array
    return group


def numbered(*shape, dtype="u2"):
    """An array of which every voxel differs from the others."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def label_node(folder, name="cells"):
    """What ome-zarr's reader, which napari uses, makes of a label map when it is given an image or the map itself."""
    (found,) = [node for node in Reader(parse_url(str(folder)))() if node.zarr.basename() == name]
    return found


def check_by_model(kind, folder):
    """Validate a group with ome-zarr-models; `kind` is "Image", "ImageLabel" or "Labels"."""
    group = zarr.open_group(LocalStore(folder), mode="r")
    model = getattr(v04 if group.metadata.zarr_format == 2 else v05, kind)
    return model.from_zarr(group)
