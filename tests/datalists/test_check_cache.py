"""A case is looked at again whenever something that matters has changed, and a cache in a bad state is no error."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from checked_lists import make_solid, mask, scan, solid_list, with_case, write

from pipeline.datalists import check_cache
from pipeline.datalists.case_findings import look_at_case
from pipeline.datalists.check import check_cases
from pipeline.datalists.check_cache import CheckCache, content_key


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def solid(tmp_path):
    return make_solid(tmp_path)


def key(top, listed=None, number=0):
    listed = listed or solid_list()
    return content_key(listed.cases[number], listed, top)


def cache_file():
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "unet-pipeline" / "checks").iterdir()
    return file


def test_a_key_is_of_content_not_of_time_or_place(solid, tmp_path_factory):
    first = key(solid)
    os.utime(solid / "images/a.nii.gz", (1, 1))
    assert key(solid) == first
    other = tmp_path_factory.mktemp("copy")
    for name in ("images", "labels"):
        (other / name).mkdir()
        (other / name / "a.nii.gz").write_bytes((solid / name / "a.nii.gz").read_bytes())
    assert key(other) == first


def test_a_key_changes_with_each_byte_of_each_file(solid):
    first = key(solid)
    for name in ("images", "labels"):
        file = solid / name / "a.nii.gz"
        whole, times = file.read_bytes(), file.stat()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
        assert key(solid) != first
        file.write_bytes(whole)
    assert key(solid) == first


@pytest.mark.parametrize(
    "changes",
    [{"classes": ("background", "b")}, {"channels": ("ct",)}, {"label_kind": "instances"}, {"spatial_dims": 2}],
)
def test_a_key_changes_with_the_lists_words(solid, changes):
    assert key(solid, solid_list(**changes)) != key(solid)


def test_a_key_does_not_change_with_fold_or_description(solid):
    assert key(solid, with_case(solid_list(description="new"), 0, fold=3)) == key(solid)


@pytest.mark.parametrize(("name", "value"), [("__version__", "99"), ("FORMAT", 99), ("READERS", ("numpy",))])
def test_a_key_changes_with_the_code(solid, monkeypatch, name, value):
    first = key(solid)
    check_cache._code.cache_clear()
    monkeypatch.setattr(check_cache, name, value)
    assert key(solid) != first
    monkeypatch.undo()
    check_cache._code.cache_clear()


def test_a_file_beside_the_header_counts(solid):
    write(solid / "labels/a.nii.gz", mask(0))
    sitk.WriteImage(sitk.GetImageFromArray(scan(0).T), str(solid / "images/a.mhd"))
    listed = with_case(solid_list(), 0, image="images/a.mhd")
    first = key(solid, listed)
    raw = solid / "images/a.raw"
    raw.write_bytes(raw.read_bytes()[:-1] + b"\x01")
    assert key(solid, listed) != first


def test_a_missing_file_has_no_key(solid):
    (solid / "labels/a.nii.gz").unlink()
    assert key(solid) is None


def test_what_was_put_comes_back(solid):
    listed = solid_list()
    case, cache = listed.cases[0], CheckCache("toy", solid)
    found = look_at_case(case, "training", listed, solid)
    cache.put(case, "k", found)
    cache.save()
    again = CheckCache("toy", solid)
    assert again.get(case, "training", "k") == found
    assert again.get(case, "test", "k").fingerprint == replace(found.fingerprint, split="test")
    assert again.get(case, "training", "other") is None
    assert again.get(listed.cases[1], "training", "k") is None
    assert CheckCache("other", solid).get(case, "training", "k") is None


def test_a_check_of_one_split_keeps_what_is_known_of_the_others(solid):
    check_cases(solid_list(), solid, split="training")
    check_cases(solid_list(), solid, split="test")
    assert check_cases(solid_list(), solid).unchanged == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"cases": 3}', b"\xff\xfe", b'{"cases": "{}", "digest": "x"}']
)
def test_a_damaged_cache_is_none(solid, content):
    check_cases(solid_list(), solid)
    cache_file().write_bytes(content)
    assert check_cases(solid_list(), solid).unchanged == 0
    assert check_cases(solid_list(), solid).unchanged == 4


def test_a_changed_number_in_the_cache_is_seen(solid):
    check_cases(solid_list(), solid)
    text = cache_file().read_text()
    cache_file().write_text(text.replace("background", "foreground"))
    assert cache_file().read_text() != text
    assert json.loads(cache_file().read_text())
    assert check_cases(solid_list(), solid).unchanged == 0


def test_a_cache_that_cannot_be_written_is_none(solid, monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    for place in (str(tmp_path / "a file"), "/proc/nowhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert check_cases(solid_list(), solid).unchanged == 0
        assert check_cases(solid_list(), solid).unchanged == 0


def test_without_a_variable_the_cache_is_in_the_home(solid, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    check_cases(solid_list(), solid)
    assert len(list((tmp_path / "home/.cache/unet-pipeline/checks").glob("*.json"))) == 1


def test_an_interrupted_check_keeps_what_it_has_seen(solid, monkeypatch):
    def interrupted(case, *rest):
        if case.id == "d":
            raise KeyboardInterrupt
        return look_at_case(case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.datalists.check.look_at_case", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check_cases(solid_list(), solid)
    assert check_cases(solid_list(), solid).unchanged == 3
