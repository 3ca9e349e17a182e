"""Sides and modalities are told by whole words."""

import pytest

from pipeline.planning.names import names_ct, sided_axes


@pytest.mark.parametrize(
    ("classes", "axes"),
    [
        (("background", "anterior", "posterior"), {1: ("anterior", "posterior")}),
        (("background", "left lung", "right lung", "heart"), {0: ("left lung", "right lung")}),
        (("background", "kidney_l", "kidney_r"), {0: ("kidney_l", "kidney_r")}),
        (("background", "LeftKidney", "ParotidR", "LKidney"), {0: ("LeftKidney", "ParotidR", "LKidney")}),
        (("background", "left upper lobe"), {0: ("left upper lobe",), 2: ("left upper lobe",)}),
        (("background", "liver", "cell", "bright spot", "backdrop", "mRNA"), {}),
    ],
)
def test_sides(classes, axes):
    assert sided_axes(classes) == axes


@pytest.mark.parametrize(
    ("channels", "is_ct"),
    [(("CT",), True), (("MRI",), False), (("intensity",), None), (("CT", "PET"), False), (("T1w", "FLAIR"), False)],
)
def test_ct(channels, is_ct):
    assert names_ct(channels) is is_ct
