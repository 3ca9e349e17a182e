import numpy as np
import pytest
from zarr_stores import axes_of, entry_of

from pipeline.errors import InputError
from pipeline.volumes.ome_metadata import MILLIMETRES, check_shapes, is_orientation, multiscale_of


def described(entry, stored_as="0.4", **fields):
    return multiscale_of({"multiscales": [entry], **fields}, stored_as)


def with_axes(axes):
    return entry_of("zyx", [(1, 1, 1)]) | {"axes": axes}


def test_both_levels_of_transformations():
    """A voxel n lies at 3 (2 n + 10) + 5 along y: the image's own transformation comes last."""
    above = [{"type": "scale", "scale": [1, 3, 1]}, {"type": "translation", "translation": [0, 5, 0]}]
    entry = entry_of("zyx", [(1, 2, 1)], translations=[(0, 10, 0)]) | {"coordinateTransformations": above}
    (level,) = described(entry).levels
    assert (level.scale, level.translation) == ((1, 6, 1), (0, 35, 0))
    np.testing.assert_allclose(described(entry).affine(level)[1], [0, 0.006, 0, 0.035])


@pytest.mark.parametrize(
    ("unit", "millimetres"),
    [("micrometer", 1e-3), ("nanometer", 1e-6), ("millimeter", 1), ("inch", 25.4), ("angstrom", 1e-7), ("um", 1e-3)],
)
def test_units(unit, millimetres):
    image = described(entry_of("zyx", [(2, 4, 8)], unit=unit))
    np.testing.assert_allclose(image.affine(image.levels[0]), np.diag([2, 4, 8, 1 / millimetres]) * millimetres)


def test_every_unit_of_the_prefixes():
    """The metric ones are a metre times their prefix."""
    prefixes = {
        **{"yotta": 24, "zetta": 21, "exa": 18, "peta": 15, "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2},
        **{"": 0, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9, "pico": -12, "femto": -15},
        **{"atto": -18, "zepto": -21, "yocto": -24},
    }
    for prefix, power in prefixes.items():
        assert MILLIMETRES[f"{prefix}meter"] == pytest.approx(1000 * 10.0**power)
    assert MILLIMETRES["foot"] == pytest.approx(12 * MILLIMETRES["inch"])
    assert MILLIMETRES["yard"] == pytest.approx(3 * MILLIMETRES["foot"])
    assert MILLIMETRES["mile"] == pytest.approx(1760 * MILLIMETRES["yard"])


@pytest.mark.parametrize("unit", [None, "pixel", ""])
def test_without_units_lengths_are_as_they_are(unit):
    entry = with_axes([axis | {"unit": unit} for axis in axes_of("zyx")])
    np.testing.assert_array_equal(described(entry).affine(described(entry).levels[0]), np.eye(4))


@pytest.mark.parametrize("orientation", [None, "RAS", "LPS", "SAR", "AIL"])
@pytest.mark.parametrize("letters", ["zyx", "xyz", "yzx"])
def test_the_affine_takes_each_axis_where_it_points(letters, orientation):
    sizes = dict(zip("xyz", (2.0, 3.0, 5.0), strict=True))
    entry = entry_of(letters, [[sizes[letter] for letter in letters]], unit="millimeter")
    affine = described(entry).affine(described(entry).levels[0], orientation)
    for axis, letter in enumerate(letters):
        step = affine[:3, axis]
        code = "RAS"[axis] if orientation is None else orientation["xyz".index(letter)]
        direction = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
        np.testing.assert_array_equal(step, sizes[letter] * np.array(direction[code]))


def test_axes_that_say_where_they_point():
    values = ("inferior-to-superior", "anterior-to-posterior", "right-to-left")
    axes = [
        axis | {"orientation": {"type": "anatomical", "value": value}}
        for axis, value in zip(axes_of("zyx", "millimeter"), values, strict=True)
    ]
    image = described(with_axes(axes))
    expected = [[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(image.affine(image.levels[0]), expected)
    np.testing.assert_array_equal(image.affine(image.levels[0], "RAS")[2], [1, 0, 0, 0])
    axes[0]["orientation"] = {"value": "dorsal-to-ventral"}
    np.testing.assert_array_equal(described(with_axes(axes)).affine(image.levels[0]), np.eye(4))


@pytest.mark.parametrize(
    ("codes", "sound"), [("LPS", True), ("SRA", True), ("LRS", False), ("LP", False), ("XYZ", False)]
)
def test_orientations(codes, sound):
    assert is_orientation(codes) == sound


STEP = {"type": "scale", "scale": [1, 1, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": None}, "has no axes with names"),
        ({"axes": ["z", "y", "x"]}, "has no axes with names"),
        ({"axes": axes_of("zyz")}, "has the axes zyz, where"),
        ({"axes": [*axes_of("zy"), {"name": "q", "type": "space"}]}, "has the axes zyq"),
        ({"axes": axes_of("zy")}, "has the axes zy, where"),
        ({"axes": axes_of("yxc")}, "has the axes yxc, where time comes first"),
        ({"axes": axes_of("ctyx")}, "has the axes ctyx, where time comes first"),
        ({"axes": [*axes_of("zy"), {"name": "x", "type": "other"}]}, "of the types"),
        ({"axes": [{"name": "z"}, *axes_of("yx")]}, "has a unit for some of its axes, and none for z"),
        ({"axes": axes_of("zyx", "second")}, "the unit 'second', which is no length"),
        ({"datasets": []}, "have no datasets"),
        ({"datasets": [{"coordinateTransformations": [STEP]}]}, "one of its datasets has no path"),
        ({"datasets": [{"path": "0"}]}, "its dataset '0' has no scale"),
        ({"coordinateTransformations": [STEP, STEP]}, "where a scale and then a translation may stand"),
        ({"coordinateTransformations": [{"type": "affine"}]}, "where a scale and then a translation may stand"),
        ({"coordinateTransformations": [{"type": "scale", "path": "s"}]}, "stands in an array of its own"),
        ({"version": "0.1"}, r"is OME-Zarr 0\.1 in a store as version 0\.4 has it"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(InputError, match=f"{message}.*Remedy"):
        described(entry_of("zyx", [(1, 1, 1)]) | change)


@pytest.mark.parametrize(
    "scale", [[1, 1], [1, 0, 1], [1, -1, 1], [1, "1", 1], [1, float("nan"), 1], [1, 10**400, 1], [1, True, 1], 1, None]
)
def test_scales_that_are_none(scale):
    entry = entry_of("zyx", [(1, 1, 1)])
    entry["datasets"][0]["coordinateTransformations"][0]["scale"] = scale
    with pytest.raises(InputError, match="the scale of dataset '0' is"):
        described(entry)


def test_versions():
    entry = entry_of("zyx", [(1, 1, 1)], version="0.5")
    assert described(entry, "0.5", version="0.5").version == "0.5"
    assert described(entry, "0.4").version == "0.4", "the standard only recommends to write it"
    assert described(entry, "0.5", version="0.5.2").version == "0.5"
    with pytest.raises(InputError, match=r"is OME-Zarr 0\.6"):
        described(entry, "0.5", version="0.6")


@pytest.mark.parametrize(
    ("coarse", "sound"),
    [((4, 50, 51), True), ((4, 51, 51), True), ((4, 47, 50), False), ((2, 50, 50), True), ((1, 50, 50), False)],
)
def test_shapes_of_levels(coarse, sound):
    """Scales of 1 and 2 from (4, 101, 101) on give 50 or 51; z is not halved, of which 4 at most 2 voxels may lack."""
    image = described(entry_of("zyx", [(1, 1, 1), (1, 2, 2)]))
    shapes = {0: (4, 101, 101), 1: coarse}
    if sound:
        check_shapes(image, 0, shapes)
    else:
        with pytest.raises(InputError, match="contradict"):
            check_shapes(image, 0, shapes)


def test_channels_are_as_many_at_each_level():
    image = described(entry_of("cyx", [(1, 1, 1), (1, 2, 2)]))
    with pytest.raises(InputError, match="along c contradict"):
        check_shapes(image, 1, {0: (3, 10, 10), 1: (2, 5, 5)})
