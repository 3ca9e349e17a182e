"""What OME-Zarr metadata say of an image, versions 0.4 and 0.5: axes, units, levels, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError

MILLIMETRES = {
    "angstrom": 1e-7,
    "attometer": 1e-15,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "exameter": 1e21,
    "femtometer": 1e-12,
    "foot": 304.8,
    "gigameter": 1e12,
    "hectometer": 1e5,
    "inch": 25.4,
    "kilometer": 1e6,
    "megameter": 1e9,
    "meter": 1e3,
    "micrometer": 1e-3,
    "mile": 1609344.0,
    "millimeter": 1.0,
    "nanometer": 1e-6,
    "parsec": 3.0856775814913673e19,
    "petameter": 1e18,
    "picometer": 1e-9,
    "terameter": 1e15,
    "yard": 914.4,
    "yoctometer": 1e-21,
    "yottameter": 1e27,
    "zeptometer": 1e-18,
    "zettameter": 1e24,
    # Not the standard's words, but met in its files.
    **{"micron": 1e-3, "um": 1e-3, "\N{MICRO SIGN}m": 1e-3, "\N{GREEK SMALL LETTER MU}m": 1e-3},
    **{"nm": 1e-6, "mm": 1.0, "cm": 10.0},
}
UNITLESS = (None, "", "pixel", "pixels", "voxel")
KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
ORDER = ("time", "channel", "space")
TOWARDS = {
    **{"left-to-right": "R", "right-to-left": "L", "posterior-to-anterior": "A", "anterior-to-posterior": "P"},
    **{"inferior-to-superior": "S", "superior-to-inferior": "I"},
}
LARGEST = 1e300  # what a number of the metadata may be; NaN is not below it
NOT_READ = "convert the image to OME-Zarr 0.4 or 0.5, for instance with bioformats2raw or ngff-zarr"
CORRECT = "correct the metadata, or convert the image from its source again"


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Args:
        path: of its array, from the image's group on.
        scale: of each of the image's axes, in its units.
        translation: of the first voxel's centre.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Multiscale:
    """An image in several resolutions.

    Args:
        version: "0.4" or "0.5".
        axes: as the metadata have them: "name", "type", "unit", ...
        levels: the largest first.
    """

    version: str
    axes: tuple[Mapping[str, Any], ...]
    levels: tuple[Level, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The letter of each axis: t, c, z, y and x."""
        return tuple(_letter(axis) for axis in self.axes)

    @property
    def spatial(self) -> tuple[int, ...]:
        """The numbers of the spatial axes, in the order of the file."""
        return tuple(number for number, name in enumerate(self.names) if name in "zyx")

    def affine(self, level: Level, orientation: str | None = None) -> np.ndarray:
        """Return the (4, 4) map from a voxel's index along the spatial axes of the file to millimetres.

        Lengths without a unit count as millimetres. The standard knows nothing of the patient: an image is placed as a
        stack of pages is, its first axis along the first one of space, whatever its name, unless `orientation`, or an
        "orientation" of its axes, tells where they point in the patient; then the result is in RAS+.

        Args:
            level: one of `levels`.
            orientation: where x, y and z point, such as "LPS".
        """
        sizes = self.sizes(level)
        result = np.diag([0.0, 0.0, float(len(self.spatial) == 2), 1.0])
        for axis, (number, (place, sign)) in enumerate(zip(self.spatial, self._places(orientation), strict=True)):
            edge, begin = sizes[number]
            result[place, axis] = sign * edge
            result[place, 3] = sign * begin
        return result

    def sizes(self, level: Level) -> dict[int, tuple[float, float]]:
        """Return the voxel's edge and the first one's centre in millimetres, by the number of each spatial axis."""
        found = {number: self._millimetres(number) for number in self.spatial}
        return {number: (level.scale[number] * mm, level.translation[number] * mm) for number, mm in found.items()}

    def _places(self, orientation: str | None) -> list[tuple[int, int]]:
        """Return along which axis of space each spatial axis lies, and in which direction."""
        codes = self._codes(orientation)
        if codes is None:
            return [(axis, 1) for axis in range(len(self.spatial))]
        return [("RAS".index(code), 1) if code in "RAS" else ("LPI".index(code), -1) for code in codes]

    def _codes(self, orientation: str | None) -> str | None:
        if len(self.spatial) < 3:
            return None
        if orientation is not None:
            if not is_orientation(orientation):
                raise InputError(
                    f"the orientation is '{orientation}'", remedy="say where x, y and z point, such as LPS or RAS"
                )
            return "".join(orientation["xyz".index(self.names[number])] for number in self.spatial)
        told = [self.axes[number].get("orientation") for number in self.spatial]
        codes = "".join(TOWARDS.get(str(one.get("value")), "") for one in told if isinstance(one, Mapping))
        return codes if is_orientation(codes) else None

    def _millimetres(self, number: int) -> float:
        unit = self.axes[number].get("unit")
        if unit in UNITLESS:
            return 1.0
        if unit not in MILLIMETRES:
            raise InputError(
                f"its axis {self.names[number]} has the unit '{unit}', which is no length",
                remedy="write one that the standard knows, such as micrometer",
            )
        return MILLIMETRES[unit]


def is_orientation(codes: str) -> bool:
    """Tell whether three letters say for each axis of the patient where it points, as "LPS" does."""
    return sorted("LPI".find(code) if code in "LPI" else "RAS".find(code) for code in codes) == [0, 1, 2]


def multiscale_of(fields: Mapping[str, Any], version: str) -> Multiscale:
    """Return what the first entry of "multiscales" says; whatever the standard does not allow raises.

    Args:
        fields: those that hold "multiscales".
        version: "0.4" or "0.5", as the store's format has it.
    """
    entry = _first(fields.get("multiscales"))
    told = str(fields.get("version", version) if version == "0.5" else entry.get("version", version))
    if told != version and not told.startswith(f"{version}."):
        raise InputError(f"is OME-Zarr {told} in a store as version {version} has it", remedy=NOT_READ)
    axes = _axes(entry.get("axes"))
    above = _transformation(entry.get("coordinateTransformations") or [], len(axes), "the image")
    datasets = entry.get("datasets")
    if not isinstance(datasets, list) or not datasets or not all(isinstance(one, dict) for one in datasets):
        raise InputError("its multiscales have no datasets", remedy=CORRECT)
    levels = tuple(_level(dataset, len(axes), above) for dataset in datasets)
    found = Multiscale(version, axes, levels)
    _check_units(found)
    return found


def check_shapes(image: Multiscale, level: int, shapes: Mapping[int, tuple[int, ...]]) -> None:
    """Raise where the shapes of two levels cannot be those of one image.

    Args:
        image: what the metadata say.
        level: the one that is read.
        shapes: by the number of the level, of those that are there.
    """
    mine, here = shapes[level], image.levels[level]
    for number, shape in shapes.items():
        other = image.levels[number]
        for axis, name in enumerate(image.names):
            lengths = mine[axis] * here.scale[axis], shape[axis] * other.scale[axis]
            # Halving rounds up or down, at each level: less than one voxel of the coarser level in all.
            near = 2 * max(here.scale[axis], other.scale[axis])
            same = abs(lengths[0] - lengths[1]) <= near if name in "zyx" else mine[axis] == shape[axis]
            if not same:
                reason = (
                    f"level {level} has the shape {mine} and level {number} {shape}, which scales of "
                    f"{here.scale[axis]:g} and {other.scale[axis]:g} along {name} contradict"
                )
                raise InputError(reason, remedy=CORRECT)


def _first(multiscales: object) -> Mapping[str, Any]:
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        raise InputError("has no multiscales, by which OME-Zarr describes an image", remedy=NOT_READ)
    return multiscales[0]


def _letter(axis: Mapping[str, Any]) -> str:
    kind, name = axis.get("type"), str(axis["name"])
    return name if kind not in ("time", "channel") else kind[0]


def _axes(axes: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(axes, list) or not all(isinstance(axis, dict) and "name" in axis for axis in axes):
        raise InputError("has no axes with names, as OME-Zarr before 0.4", remedy=NOT_READ)
    letters = [_letter(axis) for axis in axes]
    kinds = [KINDS.get(letter, "other") for letter in letters]
    named = "".join(str(axis["name"]) for axis in axes)
    if "other" in kinds or len(set(letters)) < len(letters) or not {"y", "x"} <= set(letters):
        raise InputError(f"has the axes {named}, where t, c, z, y and x are known, each once", remedy=CORRECT)
    if any(axis.get("type") not in (None, kind) for axis, kind in zip(axes, kinds, strict=True)):
        types = [axis.get("type") for axis in axes]
        raise InputError(f"has the axes {named} of the types {types}", remedy=CORRECT)
    if sorted(kinds, key=ORDER.index) != kinds:
        reason = f"has the axes {named}, where time comes first, then channels, then space"
        raise InputError(reason, remedy=CORRECT)
    return tuple(axes)


def _check_units(image: Multiscale) -> None:
    units = {image.names[number]: image.axes[number].get("unit") for number in image.spatial}
    without = [name for name, unit in units.items() if unit in UNITLESS]
    if 0 < len(without) < len(units):
        reason = f"has a unit for some of its axes, and none for {', '.join(without)}"
        raise InputError(reason, remedy="write the unit of each spatial axis, or of none")
    for number in image.spatial:
        image._millimetres(number)


def _level(dataset: Mapping[str, Any], axes: int, above: tuple[np.ndarray, np.ndarray]) -> Level:
    path = dataset.get("path")
    if not isinstance(path, str) or not path:
        raise InputError("one of its datasets has no path", remedy=CORRECT)
    told = dataset.get("coordinateTransformations")
    if not told:
        raise InputError(f"its dataset '{path}' has no scale (coordinateTransformations)", remedy=CORRECT)
    scale, translation = _transformation(told, axes, f"dataset '{path}'")
    outer, shift = above
    return Level(path, tuple((outer * scale).tolist()), tuple((outer * translation + shift).tolist()))


def _transformation(steps: object, axes: int, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and the translation that a list of transformations makes."""
    scale, translation = np.ones(axes), np.zeros(axes)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise InputError(f"the transformations of {of} are no list", remedy=CORRECT)
    kinds = [step.get("type") for step in steps]
    if kinds not in ([], ["identity"], ["scale"], ["scale", "translation"]):
        reason = f"the transformations of {of} are {kinds}, where a scale and then a translation may stand"
        raise InputError(reason, remedy=CORRECT)
    for step in steps:
        if step["type"] == "scale":
            scale = _numbers(step, "scale", axes, of)
            if not (scale > 0).all():
                raise InputError(f"the scale of {of} is {scale.tolist()}, where sizes are above 0", remedy=CORRECT)
        elif step["type"] == "translation":
            translation = _numbers(step, "translation", axes, of)
    return scale, translation


def _numbers(step: Mapping[str, Any], key: str, axes: int, of: str) -> np.ndarray:
    values: Sequence[Any] | None = step.get(key)
    if "path" in step and values is None:
        raise InputError(f"the {key} of {of} stands in an array of its own, which is not read", remedy=CORRECT)
    sound = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST for value in values
    )
    if not sound or values is None or len(values) != axes:
        raise InputError(f"the {key} of {of} is {values}, where {axes} numbers are needed", remedy=CORRECT)
    return np.array(values, np.float64)
