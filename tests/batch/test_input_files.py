from pathlib import Path

import pytest

from pipeline.batch.input_files import find_files
from pipeline.errors import InputError


def tree(top, *names):
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"")
    return top


def names_below(top, found):
    return [file.relative_to(top).as_posix() for file in found.files]


def test_a_folder_is_searched_in_order_without_what_is_hidden(tmp_path):
    tree(tmp_path, "b/2.png", "b/1.png", "a.png", ".hidden.png", ".git/x.png", "b/.tmp-1-2.png", "notes.md")
    found = find_files(tmp_path)
    assert names_below(tmp_path, found) == ["a.png", "notes.md", "b/1.png", "b/2.png"]
    assert (found.top, found.named) == (tmp_path, frozenset())


def test_output_folders_are_left_out(tmp_path):
    tree(tmp_path, "a.png", "out/a.png", "earlier/.completed/x.json", "earlier/a.png", "sub/out/b.png")
    assert names_below(tmp_path, find_files(tmp_path, tmp_path / "out")) == ["a.png", "sub/out/b.png"]
    assert names_below(tmp_path, find_files(f"{tmp_path}/**", tmp_path / "out")) == ["a.png", "sub/out/b.png"]
    assert names_below(tmp_path, find_files(f"{tmp_path}/*/*.png", tmp_path / "out")) == []
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert names_below(tmp_path, find_files(tmp_path, tmp_path / "link")) == ["a.png", "sub/out/b.png"]
    with pytest.raises(InputError, match="the output folder is the input folder"):
        find_files(tmp_path / "sub", tmp_path / "out" / ".." / "sub")


def test_the_output_folder_of_another_batch_is_an_input_when_it_is_named(tmp_path):
    tree(tmp_path, "earlier/.completed/x.json", "earlier/a.png")
    assert names_below(tmp_path, find_files(tmp_path / "earlier", tmp_path / "out")) == ["earlier/a.png"]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    tree(tmp_path, "data/a.png", "in/b.png")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "data")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    assert names_below(tmp_path, find_files(tmp_path / "in")) == ["in/b.png", "in/more/a.png"]


def test_patterns(tmp_path):
    tree(tmp_path, "p1/t1.nii.gz", "p1/t2.nii.gz", "p2/t1.nii.gz", "p2/deep/x.png", "[a]/y.png")
    found = find_files(f"{tmp_path}/p*/t1.nii.gz")
    assert names_below(tmp_path, found) == ["p1/t1.nii.gz", "p2/t1.nii.gz"]
    assert found.top == tmp_path
    assert names_below(tmp_path, find_files(f"{tmp_path}/p2*")) == ["p2/t1.nii.gz", "p2/deep/x.png"]
    assert find_files(f"{tmp_path}/p1/t?.nii.gz").top == tmp_path / "p1"
    assert names_below(tmp_path, find_files(tmp_path / "[a]")) == ["[a]/y.png"]  # a folder of that very name
    assert find_files(f"{tmp_path}/nothing*").files == ()


def test_a_pattern_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path, "a.png", "b.png"))
    found = find_files("*.png")
    assert (found.files, found.top) == ((Path("a.png"), Path("b.png")), Path())


def test_a_list_of_paths(tmp_path):
    tree(tmp_path, "lists/near/a.png", "far/b.png", "far/c.png")
    lines = ["﻿# cases", "", "near/a.png", "  ../far/b.png  ", str(tmp_path / "far" / "b.png"), "missing.png", "../far"]
    (tmp_path / "lists" / "cases.txt").write_text("\r\n".join(lines))
    found = find_files(tmp_path / "lists" / "cases.txt")
    assert names_below(tmp_path, found) == ["lists/near/a.png", "far/b.png", "lists/missing.png", "far/c.png"]
    assert found.top == tmp_path / "lists"
    assert tmp_path / "lists" / "missing.png" in found.named
    assert tmp_path / "far" / "c.png" not in found.named


def test_one_file(tmp_path):
    found = find_files(tree(tmp_path, "a.png") / "a.png")
    assert (found.files, found.top, found.named) == ((tmp_path / "a.png",), tmp_path, {tmp_path / "a.png"})


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", b"\n# nothing\n", "the list is empty"),
        ("a.txt", b"\xff\xfe\x00", "no text in UTF-8"),
        ("a.csv", b"x", "neither an image nor a list"),
        ("data.json", b"{}", "neither an image nor a list"),
        ("x/y", b"", "does not exist"),
    ],
)
def test_sources_that_are_none(tmp_path, name, content, text):
    if "/" not in name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=text) as caught:
        find_files(tmp_path / name)
    assert caught.value.file == str(tmp_path / name)
    assert caught.value.remedy


def test_a_path_that_begins_with_the_sign_of_a_remark_is_a_path(tmp_path):
    for name in ("#1.png", "a.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.txt").write_text("#1.png\n# a remark\n#b.png\na.png\n")
    assert [file.name for file in find_files(tmp_path / "list.txt").files] == ["#1.png", "a.png"]


def stores_below(top, found):
    return [Path(store).relative_to(top).as_posix() for store in found.stores]


def test_a_zarr_store_is_one_input_and_never_searched(tmp_path):
    tree(tmp_path, "a.png", "x.ome.zarr/.zattrs", "x.ome.zarr/0/0.0.png", "sub/y.zarr/b.png", "sub/plain/zarr.json")
    tree(tmp_path, "sub/plain/c.png", ".hidden.zarr/.zgroup", "earlier/.completed/x.json", "earlier/z.zarr/.zgroup")
    found = find_files(tmp_path)
    assert names_below(tmp_path, found) == ["a.png"]
    assert stores_below(tmp_path, found) == ["x.ome.zarr", "sub/plain", "sub/y.zarr"]
    for source in (tmp_path / "x.ome.zarr", f"{tmp_path}/x.ome.zarr/", f"file://{tmp_path}/x.ome.zarr"):
        found = find_files(source)
        assert (found.files, stores_below(tmp_path, found), found.top) == ((), ["x.ome.zarr"], tmp_path)


def test_patterns_do_not_look_into_a_zarr_store(tmp_path):
    tree(tmp_path, "a.png", "x.zarr/.zattrs", "x.zarr/0/0.0.png", "sub/y.zarr/.zgroup", "sub/y.zarr/0/b.png")
    for pattern, files, stores in (
        ("**", ["a.png"], ["sub/y.zarr", "x.zarr"]),
        ("*.zarr", [], ["x.zarr"]),
        ("**/*.png", ["a.png"], []),
        ("sub/*", [], ["sub/y.zarr"]),
        ("s*", [], ["sub/y.zarr"]),
    ):
        found = find_files(f"{tmp_path}/{pattern}")
        assert (names_below(tmp_path, found), sorted(stores_below(tmp_path, found))) == (files, stores), pattern


def test_stores_and_urls_in_a_list(tmp_path):
    tree(tmp_path, "a.png", "in put/x.zarr/.zattrs")
    lines = ["# s3://no/remark.zarr", "in put/x.zarr", "s3://bucket/y.zarr/", "a.png", "s3://bucket/y.zarr"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = find_files(tmp_path / "list.txt")
    assert found.files == (tmp_path / "a.png",)
    assert found.stores == (str(tmp_path / "in put" / "x.zarr"), "s3://bucket/y.zarr")
    assert found.named == {tmp_path / "a.png"}
    (tmp_path / "list.txt").write_text("s3://bucket/y.zarr")
    assert find_files(tmp_path / "list.txt").stores == ("s3://bucket/y.zarr",)


def test_a_url_by_itself():
    for source in ("s3://bucket/y.zarr", Path("s3://bucket/y.zarr")):
        found = find_files(source, "out")
        assert (found.files, found.stores) == ((), ("s3://bucket/y.zarr",))


def test_results_never_go_into_the_store_that_they_are_of(tmp_path):
    tree(tmp_path, "a.zarr/.zattrs", "a.zarr/.zgroup")
    with pytest.raises(InputError, match="the output folder lies in the image"):
        find_files(tmp_path / "a.zarr", tmp_path / "a.zarr" / "out")
    assert find_files(tmp_path / "a.zarr", tmp_path / "out").stores == (str(tmp_path / "a.zarr"),)
