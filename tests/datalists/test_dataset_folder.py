"""Files below one folder: those that can stay are linked, others are written once, and nothing is overwritten."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from layout_files import noise, pixels, png, stamps

from pipeline.datalists.dataset_folder import MOST_PROBLEMS, DatasetFolder, convert_all, convert_most, wrong_layout
from pipeline.errors import InputError

PIXELS = noise(0, 4, 5)


@pytest.fixture
def source(tmp_path):
    return png(tmp_path / "downloads" / "a.png", PIXELS).resolve()


def test_a_file_inside_stays_where_it_is(source, tmp_path):
    before = stamps(tmp_path)
    assert DatasetFolder(source.parent).use(source, "images/a.png") == "a.png"
    assert DatasetFolder(source.parent, tmp_path).use(source, "images/a.png") == "downloads/a.png"
    assert stamps(tmp_path) == before


def test_a_file_elsewhere_becomes_a_link(source, tmp_path):
    target = DatasetFolder(source.parent, tmp_path / "data")
    assert target.use(source, "images/a.png") == "images/a.png"
    link = tmp_path / "data" / "images" / "a.png"
    assert link.is_symlink()
    assert link.samefile(source)
    before = stamps(tmp_path)
    target.use(source, "images/a.png")
    assert stamps(tmp_path) == before


def test_a_link_is_renewed_when_its_file_has_moved(source, tmp_path):
    target = DatasetFolder(source.parent, tmp_path / "data")
    target.use(source, "a.png")
    moved = source.rename(tmp_path / "moved.png")
    target.use(moved, "a.png")
    assert (tmp_path / "data" / "a.png").samefile(moved)


def test_where_links_are_not_allowed_the_file_is_copied(source, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(os, "symlink", refuse)
    target = DatasetFolder(source.parent, tmp_path / "data")
    for _ in range(2):  # the second time the copy is there
        assert target.use(source, "a.png") == "a.png"
    copy = tmp_path / "data" / "a.png"
    assert not copy.is_symlink()
    assert copy.read_bytes() == source.read_bytes()


def test_another_file_is_never_replaced(source, tmp_path):
    target = DatasetFolder(source.parent, tmp_path / "data")
    mine = png(tmp_path / "data" / "a.png", PIXELS[:2])
    content = mine.read_bytes()
    with pytest.raises(InputError, match=r"'.*a\.png': exists already and holds something else.*--dataset_dir"):
        target.use(source, "a.png")
    with pytest.raises(InputError, match=r"case 'a', file '.*exists already and holds something else"):
        target.write("a.png", PIXELS[None], "a")
    assert mine.read_bytes() == content


@pytest.mark.parametrize(("name", "dtype"), [("a.png", "u1"), ("deep/er/a.png", "u2"), ("a.tif", "u2")])
def test_an_array_is_written_once(tmp_path, name, dtype):
    target = DatasetFolder(tmp_path, tmp_path / "data")
    array = PIXELS.astype(dtype)
    assert target.write(name, array[None]) == name
    stored = pixels(target.root / name)
    assert stored.dtype == dtype
    assert np.array_equal(stored, array)
    before = stamps(tmp_path)
    assert target.write(name, array[None]) == name
    assert stamps(tmp_path) == before
    with pytest.raises(InputError, match="holds something else"):
        target.write(name, (array.astype("u2" if dtype == "u1" else "u1"))[None])


def test_converted_files_go_below_data_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    assert DatasetFolder("download", converted="toy").root == here / "data" / "toy"
    assert DatasetFolder("data/toy", converted="toy").root == here / "data" / "toy_converted"
    assert DatasetFolder("download").root == here / "download"
    assert DatasetFolder("download", "x", converted="toy").root == here / "x"
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_raised_at_once_up_to_a_number():
    tried = []

    def halve(number):
        tried.append(number)
        if number % 2:
            raise InputError("is odd", case=str(number))
        return number // 2

    assert convert_all([0, 2, 4], halve, "numbers") == [0, 1, 2]
    with pytest.raises(InputError, match=r"numbers: 2 problems\n.*case '1': is odd\n.*case '3'"):
        convert_all([0, 1, 2, 3], halve, "numbers")
    tried.clear()
    with pytest.raises(InputError, match=f"{MOST_PROBLEMS} problems"):
        convert_all(range(1000), halve, "numbers")
    assert len(tried) == 2 * MOST_PROBLEMS


def test_what_cannot_be_converted_is_left_out(tmp_path):
    def halve(number):
        if number % 2:
            raise InputError("is odd", case=str(number), file=f"{number}.png")
        return number // 2

    left_out = []
    assert convert_most([0, 1, 4], halve, "numbers", left_out) == [(0, 0), (4, 2)]
    assert left_out == [(Path("1.png"), "is odd, so case '1' is left out")]
    assert convert_most([], halve, "numbers", left_out) == []
    with pytest.raises(InputError, match=r"numbers: 2 problems\n.*case '1', file '1.png': is odd\n.*case '3'"):
        convert_most([1, 3], halve, "numbers", left_out)
    assert len(left_out) == 1


def test_a_file_in_the_way_is_no_reason_to_leave_a_case_out(tmp_path):
    target = DatasetFolder(tmp_path, tmp_path / "data")
    png(tmp_path / "data" / "a.png", PIXELS[:2])
    with pytest.raises(InputError, match="exists already and holds something else"):
        convert_most("ba", lambda name: target.write(f"{name}.png", PIXELS[None], name), "pictures", [])


def test_an_error_shows_the_tree_of_the_docstring():
    docstring = "One line.\n\nLicence: none.\n\nLayout, in short:\n\n    <folder>/a.tif\n             b.tif\n"
    error = wrong_layout("my_folder", "has no a.tif", docstring)
    assert str(error) == (
        "file 'my_folder': has no a.tif. Remedy: give the folder that holds\n<folder>/a.tif\n         b.tif"
    )
    assert "has no a.tif" in str(wrong_layout("my_folder", "has no a.tif", None)), "python -OO keeps no docstrings"


def test_a_data_set_may_be_moved_with_its_folder(source, tmp_path):
    DatasetFolder(source.parent, tmp_path / "data").use(source, "a.png")
    moved = Path(shutil.move(tmp_path / "data", tmp_path / "elsewhere"))
    assert (moved / "a.png").samefile(source)
