"""The embedded sets: lists as committed, files drawn where they are missing and left alone where they are not."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from pipeline.datalists.datalist import load_data_list, save_data_list
from pipeline.datalists.embedded import EMBEDDED, ensure_data, make_data_list
from pipeline.errors import InputError
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs

LISTS = Path(__file__).parents[2] / "data_lists"


def shortened(name, *numbers):
    whole = make_data_list(name)
    return replace(whole, cases=tuple(whole.cases[number] for number in numbers))


def contents(top):
    return {file.relative_to(top).as_posix(): file.read_bytes() for file in top.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", EMBEDDED)
def test_committed_list_is_the_one_that_the_code_makes(name, tmp_path):
    save_data_list(make_data_list(name), tmp_path / "list.json")
    assert (LISTS / f"{name}.json").read_text() == (tmp_path / "list.json").read_text()
    assert load_data_list(LISTS / f"{name}.json").digest == make_data_list(name).digest


@pytest.mark.parametrize("name", EMBEDDED)
def test_readme_says_source_licence_and_command(name):
    listed, readme = make_data_list(name), (LISTS / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith(f"| [`{name}.json`]"))
    assert listed.licence in row
    assert listed.made_by in row
    assert f"seed {listed.generator['seed']}" in row


def test_cells_have_four_folds_of_three_slides_and_six_test_fields():
    listed = make_data_list("cells")
    assert [len(listed.select("validation", fold)) for fold in range(4)] == [6, 6, 6, 6]
    assert [len(listed.select("training", fold)) for fold in range(4)] == [18, 18, 18, 18]
    assert len(listed.select("test")) == 6
    slides = {}
    for case in listed.cases:
        slides.setdefault(case.group, []).append(case.place)
    assert len(slides) == 15
    assert all(len(places) == 2 and len(set(places)) == 1 for places in slides.values())


def test_organs_have_four_folds_of_three_scans_and_three_test_scans():
    listed = make_data_list("organs")
    assert [len(listed.select("validation", fold)) for fold in range(4)] == [3, 3, 3, 3]
    assert len(listed.select("test")) == 3


def test_files_hold_what_the_generator_draws(tmp_path):
    written = ensure_data(shortened("cells", 5), tmp_path) + ensure_data(shortened("organs", 2), tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in written] == [
        "images/cells_005.tif",
        "labels/cells_005.tif",
        "images/organs_002.nii.gz",
        "labels/organs_002.nii.gz",
    ]
    image, instances = make_cells([2015, 5], slide=[2015, 2, 1])
    assert np.array_equal(tifffile.imread(written[0]), image)
    assert np.array_equal(tifffile.imread(written[1]), instances)
    scan = make_organs([2016, 2])
    for file, expected in ((written[2], scan.volume), (written[3], scan.labels)):
        stored = nib.load(file)
        assert np.array_equal(np.asanyarray(stored.dataobj), expected)
        assert stored.get_data_dtype() == expected.dtype
        for affine, code in (stored.get_sform(coded=True), stored.get_qform(coded=True)):
            assert code == 1
            assert affine == pytest.approx(scan.affine, abs=1e-3)


def test_only_missing_files_are_written(tmp_path):
    listed = shortened("cells", 0, 1)
    ensure_data(listed, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "images/cells_000.tif").write_bytes(b"mine")
    (tmp_path / "labels/cells_000.tif").unlink()
    kept = (tmp_path / "images/cells_001.tif").stat().st_mtime_ns
    assert ensure_data(listed, tmp_path) == [tmp_path / "labels/cells_000.tif"]
    assert contents(tmp_path) == before | {"images/cells_000.tif": b"mine"}
    assert (tmp_path / "images/cells_001.tif").stat().st_mtime_ns == kept
    assert ensure_data(listed, tmp_path) == []


def test_equal_lists_give_equal_bytes_and_a_shortened_list_the_same_pictures(tmp_path):
    ensure_data(shortened("cells", 0, 3), tmp_path / "a")
    ensure_data(shortened("organs", 1), tmp_path / "a")
    ensure_data(shortened("cells", 3), tmp_path / "b")
    ensure_data(shortened("organs", 1), tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(b) == 4
    assert all(a[name] == content for name, content in b.items())
    assert a["images/cells_000.tif"] != a["images/cells_003.tif"]


def test_another_seed_gives_other_pictures(tmp_path):
    listed = shortened("cells", 0)
    other = replace(listed, generator={"name": "cells", "seed": 1})
    ensure_data(listed, tmp_path / "a")
    ensure_data(other, tmp_path / "b")
    assert contents(tmp_path / "a")["images/cells_000.tif"] != contents(tmp_path / "b")["images/cells_000.tif"]


def test_several_at_once_leave_whole_files_and_nothing_else(tmp_path):
    listed = shortened("cells", *range(6))
    ensure_data(listed, tmp_path / "alone")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure_data(listed, tmp_path / "together"), range(4)))
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_a_list_without_a_generator_is_left_alone(tmp_path):
    assert ensure_data(replace(make_data_list("cells"), generator=None), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_list_may_be_given_by_its_path(tmp_path):
    save_data_list(shortened("organs", 0), tmp_path / "list.json")
    assert len(ensure_data(tmp_path / "list.json", tmp_path / "data")) == 2


def test_what_the_generator_cannot_draw_is_refused_before_anything_is_written(tmp_path):
    listed = shortened("cells", 0, 1)
    first, second = listed.cases
    for changes in ({"id": "field_1"}, {"image": "images/a.png"}, {"image": ("a.tif", "b.tif")}):
        broken = replace(listed, cases=(first, replace(second, **changes)))
        with pytest.raises(InputError, match="cannot draw this case's files"):
            ensure_data(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"no embedded set 'nuclei'.*cells, organs"):
        make_data_list("nuclei")
    with pytest.raises(InputError, match="no embedded set 'nuclei'"):
        ensure_data(replace(listed, generator={"name": "nuclei", "seed": 1}), tmp_path)
