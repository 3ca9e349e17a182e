import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.volumes import zarr_place
from pipeline.volumes.zarr_place import Place, is_store, library, naming, path_of, place_of, url_of


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a b/x.zarr/", "s3://bucket/a b/x.zarr"),
        ("https://host:80/x.zarr", "https://host:80/x.zarr"),
        ("simplecache::s3://bucket/x.zarr", "simplecache::s3://bucket/x.zarr"),
        ("memory://x", "memory://x"),
        ("file:///data/x.zarr", None),
        ("/data/x.zarr", None),
        ("data/s3/x.zarr", None),
        ("a::b.zarr", None),
        ("C:/data", None),
    ],
)
def test_urls(text, url):
    assert url_of(text) == url


def test_a_url_that_was_made_a_path(tmp_path, monkeypatch):
    assert url_of(Path("s3://bucket/x.zarr")) == "s3://bucket/x.zarr"
    assert url_of(Path("simplecache::s3://bucket/x.zarr")) == "simplecache::s3://bucket/x.zarr"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    assert url_of(Path("s3:/bucket")) is None, "a folder of this very name"


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("x.zarr") == Place(str(tmp_path / "x.zarr"))
    assert place_of(f"file://{tmp_path}/x#1.zarr") == Place(f"{tmp_path}/x#1.zarr")
    assert path_of("file:///a/b.zarr") == Path("/a/b.zarr")
    place = place_of("s3://bucket/x.zarr")
    assert place.is_url
    assert not place_of("x.zarr").is_url
    assert str(place.below("A/1").below("0")) == "s3://bucket/x.zarr/A/1/0"


@pytest.mark.parametrize("path", ["..", "a/../..", "/etc", "", ".", "a/./b"])
def test_paths_that_lead_out_of_a_store(path):
    with pytest.raises(InputError, match="does not lie within it"):
        Place("/data/x.zarr").below(path)


def test_stores(tmp_path):
    for name in ("a/zarr.json", "b/.zgroup", "c/.zattrs", "d/.zarray", "e.ome.ZARR/notes.txt", "f/image.tif"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    (tmp_path / "g.zarr").write_text("a file")
    assert [path.name for path in sorted(tmp_path.iterdir()) if is_store(path)] == ["a", "b", "c", "d", "e.ome.ZARR"]


def test_metadata(tmp_path, monkeypatch):
    (tmp_path / ".zattrs").write_text('{"a": 1}')
    place = Place(str(tmp_path))
    assert place.read_json(".zattrs") == {"a": 1}
    assert place.read_json("zarr.json") is None
    monkeypatch.setattr(zarr_place, "METADATA_LIMIT", 7)
    with pytest.raises(InputError, match="has more than 7 bytes"):
        place.read_json(".zattrs")


def test_whatever_goes_wrong_names_the_store():
    for place, remedy in ((Place("/x.zarr"), "fetch the file again"), (Place("s3://b/x.zarr"), "can be reached")):
        with pytest.raises(InputError, match=rf"{place}'.*TimeoutError: no answer.*{remedy}"), naming(place):
            raise TimeoutError("no answer")
        with pytest.raises(InputError, match="needs more memory"), naming(place):
            raise MemoryError


def test_packages_of_the_extra():
    assert library("os") is os
    with pytest.raises(InputError, match=r"the package not_there is not installed.*unet-pipeline\[scale\]"):
        library("not_there")
