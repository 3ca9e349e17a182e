import os
import shutil

import fsspec
import numpy as np
import pytest
from zarr_stores import entry_of, numbered, write_image

from pipeline.volumes.store_contents import is_listed, store_state


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "x.zarr", "0.4", [numbered(20, 18, 17)], entry_of("zyx", [(1, 1, 1)]))
    return tmp_path / "x.zarr"


def test_the_state_changes_with_whatever_is_in_the_store(folder):
    name, count, before = store_state(folder)
    assert (name, count) == ("x.zarr", 2 * 2 * 2 + 3 + 1)  # chunks; .zgroup and .zattrs, .zarray; .zattrs of the array
    assert store_state(str(folder) + "/") == [name, count, before]
    chunk = folder / "0" / "0" / "1" / "0"
    times = os.stat(chunk)

    seen = {before}
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    seen.add(store_state(folder)[2])
    chunk.write_bytes(chunk.read_bytes() + b"1")
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    seen.add(store_state(folder)[2])
    chunk.rename(chunk.with_name("2"))
    seen.add(store_state(folder)[2])
    assert len(seen) == 4


def test_metadata_count_by_their_bytes(folder):
    before = store_state(folder)
    os.utime(folder / ".zattrs", (0, 0))
    assert store_state(folder) == before
    text = (folder / ".zattrs").read_text()
    (folder / ".zattrs").write_text(text.replace("micrometer", "nanometers"))
    assert store_state(folder) != before


def test_labels_and_what_is_being_written_do_not_count(folder):
    before = store_state(folder)
    for name in ("labels/cells/0/0", ".tmp-1-2/x", "0/0/0/0.abc.partial"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".lock").touch()
    assert store_state(folder) == before
    assert store_state(folder, labels=True)[1] == before[1] + 1


def test_a_store_that_was_moved_is_the_same_and_a_copy_is_another(folder, tmp_path):
    before = store_state(folder)
    shutil.copytree(folder, tmp_path / "copies" / "x.zarr", copy_function=shutil.copyfile)
    assert store_state(tmp_path / "copies" / "x.zarr") != before
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "x.zarr")
    assert store_state(tmp_path / "moved" / "x.zarr") == before


def test_a_bounded_look(folder):
    last = folder / "0" / "1" / "1" / "1"
    whole, first = store_state(folder), store_state(folder, most=3)
    assert first[1] == 3
    last.write_bytes(b"other")
    assert store_state(folder) != whole
    assert store_state(folder, most=3) == first


def test_behind_a_url():
    url = "memory://contents/x.zarr"
    write_image(url, "0.4", [numbered(20, 18, 17)], entry_of("zyx", [(1, 1, 1)]))
    before = store_state(url)
    assert before[:2] == ["x.zarr", 12]
    assert store_state(url) == before
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/contents/x.zarr/labels/cells/0/0", b"label")
    assert store_state(url) == before
    fs.pipe_file("/contents/x.zarr/0/0/0/0", bytes(np.zeros(7, np.uint8)))
    assert store_state(url) != before
    fs.rm("/contents", recursive=True)


@pytest.mark.parametrize(
    ("source", "listed"),
    [
        ("/a/b.zarr", True),
        ("s3://a/b.zarr", True),
        ("https://a/b.zarr", False),
        ("simplecache::http://a/b.zarr", False),
    ],
)
def test_whether_a_change_of_voxels_can_be_seen(source, listed):
    assert is_listed(source) is listed
