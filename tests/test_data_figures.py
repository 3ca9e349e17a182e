"""What the cases of a list measure, and that any of it can be drawn."""

import numpy as np
import pytest

from pipeline.data_figures import MOST_PANELS, Panel, Quantity, histograms, quantities
from pipeline.datalists.fingerprint import ClassVolume, Fingerprint, Intensities


def fingerprint(case="a", split="training", **changes):
    fields = {
        "format": "NIfTI",
        "dtype": "int16",
        "shape": (10, 20, 30),
        "spacing": (1.0, 2.0, 3.0),
        "axcodes": "RAS",
        "channels": (Intensities("CT", -1000, -900, 40, 300, 2000, 0, 1),),
        "classes": (ClassVolume("background", 5970, 35.82), ClassVolume("liver", 30, 0.18)),
    }
    return Fingerprint(case, split, **(fields | changes))


def by_title(cases):
    return {quantity.title: quantity for quantity in quantities(cases)}


def test_quantities_of_volumes():
    found = by_title([fingerprint(), fingerprint("b", "validation", shape=(12, 20, 30))])
    assert list(found) == ["Size", "Spacing", "Intensity", "Class volume", "Foreground"]
    assert found["Size"].panels[0] == ("left to right", {"training": [10], "validation": [12], "test": []})
    assert found["Size"].rows == [
        ("left to right", 10, 11, 12),
        ("back to front", 20, 20, 20),
        ("foot to head", 30, 30, 30),
    ]
    assert found["Intensity"].rows == [
        ("CT, 0.5 %", -900, -900, -900),
        ("CT, median", 40, 40, 40),
        ("CT, 99.5 %", 300, 300, 300),
    ]
    assert (found["Class volume"].unit, found["Class volume"].rows) == ("ml", [("liver", 0.18, 0.18, 0.18)])
    assert found["Foreground"].panels[0].series["training"] == [pytest.approx(0.5)]  # 30 of 6000


def test_axes_are_those_of_the_patient_whatever_their_order_in_the_file():
    turned = fingerprint("b", shape=(30, 20, 10), spacing=(3.0, 2.0, 1.0), axcodes="IPL")
    for title, values in (("Size", (10, 20, 30)), ("Spacing", (1, 2, 3))):
        assert [(low, high) for _, low, _, high in by_title([fingerprint(), turned])[title].rows] == [
            (v, v) for v in values
        ]


def test_quantities_of_pictures():
    picture = {"shape": (4, 5), "spacing": None, "axcodes": None, "format": "PNG"}
    cells = (ClassVolume("background", 15, None), ClassVolume("cell", 5, None))
    found = by_title(
        [fingerprint(**picture, classes=cells, objects=3), fingerprint("b", "test", **picture, classes=None)]
    )
    assert list(found) == ["Size", "Intensity", "Class volume", "Foreground", "Objects"]
    assert [panel.name for panel in found["Size"].panels] == ["rows", "columns"]
    assert found["Class volume"].unit == "pixels"
    assert (found["Foreground"].rows, found["Objects"].rows) == ([("all classes", 25, 25, 25)], [("per case", 3, 3, 3)])


def test_no_case_has_no_quantities():
    assert quantities([]) == []
    assert list(by_title([fingerprint(classes=None)])) == ["Size", "Spacing", "Intensity"]


@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        [0.0, 0.0],
        [-5.0, -5.0],
        [1, 2, 3],
        list(range(500)),
        [1e-9, 2e-9, 9e-9],
        [1.0] * 99 + [1e6],  # runs over 6 orders
        [-1e6] + [1.0] * 99,
        [0.0] * 99 + [1.0],
        list(np.random.default_rng(0).normal(0, 1, 5000)),
    ],
    ids=str,
)
def test_any_values_can_be_drawn(values):
    (drawn,) = histograms(
        Quantity("Title", "mm", (Panel("name", {"training": values, "test": []}),), {"training": "#0072b2"})
    )
    drawn.draw_without_rendering()
    heights = [bar.get_height() for bar in drawn.axes[0].patches]
    assert sum(heights) == len(values)
    assert len(heights) <= 40


def test_a_hundred_classes_are_not_all_drawn():
    panels = tuple(Panel(f"class {number}.", {"training": [1.0]}) for number in range(100))
    assert len(histograms(Quantity("Title", "", panels, {"training": "#0072b2"}))) == MOST_PANELS
