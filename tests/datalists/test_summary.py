"""The lines that say what was found: counts, sizes, names, and left-out files by reason."""

from pathlib import Path

import numpy as np
import pytest
from layout_files import nifti, noise, png

from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.folders import Listing
from pipeline.datalists.summary import describe
from pipeline.errors import InputError


def listing(root, cases, left_out=(), **changes):
    keys = {
        "name": "toy",
        "description": "Toys.",
        "licence": "CC0-1.0",
        "source": "a test",
        "made_by": "a test",
        "spatial_dims": 2,
        "label_kind": "instances",
        "classes": ("background", "cell"),
        "channels": ("intensity",),
        "cases": tuple(cases),
    } | changes
    return Listing(DataList(**keys), root, list(left_out))


def test_cases_sizes_and_names(tmp_path):
    for name, shape in (("a", (4, 9)), ("b", (6, 9)), ("c", (5, 9)), ("d", (4, 9)), ("e", (4, 9))):
        png(tmp_path / f"{name}.png", noise(0, *shape))
    cases = [
        Case("a", "a.png", "a_label.png", fold=10),
        Case("b", "b.png", "b_label.png", fold=2),
        Case("c", "c.png", "c_label.png", fold=2),
        Case("d", "d.png", "d_label.png", split="test"),
        Case("e", "e.png", split="test"),
    ]
    assert describe(listing(tmp_path, cases)) == [
        "toy: Toys.",
        "cases:    fold 2: 2, fold 10: 1, test: 2 (1 without a label)",
        "size:     4..6 x 9 pixels",
        "classes:  background, cell (numbered objects)",
        "channels: intensity",
    ]


def test_volumes_in_splits_with_several_channels(tmp_path):
    for name, shape in (("a", (3, 4, 5)), ("b", (3, 6, 5))):
        for channel in "01":
            nifti(tmp_path / f"{name}_{channel}.nii.gz", np.zeros(shape, np.int16))
    cases = [
        Case("b", ("b_0.nii.gz", "b_1.nii.gz"), "b.nii.gz", split="validation"),
        Case("a", ("a_0.nii.gz", "a_1.nii.gz"), "a.nii.gz", split="training"),
    ]
    options = {"spatial_dims": 3, "label_kind": "classes", "channels": ("t1", "t2")}
    assert describe(listing(tmp_path, cases, **options))[1:] == [
        "cases:    training: 1, validation: 1",
        "size:     3 x 4..6 x 5 voxels",
        "classes:  background, cell",
        "channels: t1, t2",
    ]


def test_equal_reasons_share_a_line_and_the_most_frequent_comes_first(tmp_path):
    png(tmp_path / "a.png", noise(0, 4, 4))
    left_out = [
        (Path("x.txt"), "unknown suffix '.txt'"),
        (Path("b.png"), "there is no label 'b'"),
        (Path("c.png"), "there is no label 'c'"),
        (Path("d.png"), "there is no label 'd'"),
        (Path("y.md"), "unknown suffix '.md'"),
        (Path("z.png"), "is odd"),
    ]
    lines = describe(listing(tmp_path, [Case("a", "a.png", "l.png", fold=0)], left_out))
    assert lines[5:] == [
        "left out: b.png: there is no label 'b' (and 2 more files for this reason)",
        "left out: x.txt: unknown suffix '.txt' (and 1 more file for this reason)",
        "left out: z.png: is odd",
    ]


def test_many_reasons_are_cut(tmp_path):
    png(tmp_path / "a.png", noise(0, 4, 4))
    left_out = [(Path(f"{n}.png"), f"reason {n}") for n in range(13) for _ in range(2 if n == 12 else 1)]
    lines = describe(listing(tmp_path, [Case("a", "a.png", "l.png", fold=0)], left_out))[5:]
    assert len(lines) == 11
    assert lines[0] == "left out: 12.png: reason 12 (and 1 more file for this reason)"
    assert lines[9] == "left out: 8.png: reason 8"
    assert lines[10] == "left out: 3 more files for 3 other reasons"


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"case 'a', file '.*a\.png'"):
        describe(listing(tmp_path, [Case("a", "a.png", "l.png", fold=0)]))
