"""Digests of what files hold: of their bytes alone, and only of files that were looked at."""

import pytest

from pipeline.volumes import contents
from pipeline.volumes.contents import case_digest, data_digest, look_at


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(contents, "_seen", {})


def made(folder, name, **files):
    """A record whose files hold these bytes."""
    folder.mkdir(exist_ok=True)
    for kind, content in files.items():
        (folder / f"{name}_{kind}.png").write_bytes(content)
    record = {"id": name} | {kind: str(folder / f"{name}_{kind}.png") for kind in files}
    for kind in files:
        look_at(record[kind], 2)
    return record


def test_equal_bytes_in_another_place_under_another_name_have_one_digest(tmp_path):
    first = case_digest(made(tmp_path / "one", "a", image=b"pixels", label=b"mask"))
    assert first == case_digest(made(tmp_path / "other", "b", image=b"pixels", label=b"mask"))
    assert len(first) == 16


@pytest.mark.parametrize(
    "files",
    [
        {"image": b"pixels", "label": b"mask, redone"},
        {"image": b"pixel", "label": b"mask"},
        {"image": b"mask", "label": b"pixels"},
        {"image": b"pixels"},
    ],
    ids=["another label", "another image", "the two exchanged", "no label"],
)
def test_other_content_has_another_digest(tmp_path, files):
    first = case_digest(made(tmp_path / "one", "a", image=b"pixels", label=b"mask"))
    assert case_digest(made(tmp_path / "other", "a", **files)) not in (first, None)


def test_channels_count_in_their_order(tmp_path):
    one, two = (made(tmp_path, name, image=name.encode())["image"] for name in "ab")
    assert case_digest({"id": "x", "image": [one, two]}) != case_digest({"id": "x", "image": [two, one]})


def test_a_file_that_was_never_looked_at_is_not_read_and_not_known(tmp_path):
    record = made(tmp_path, "a", image=b"pixels")
    unseen = {**record, "label": str(tmp_path / "label.png")}
    assert case_digest(unseen) is None
    assert data_digest([record, {**unseen, "id": "b"}]) is None
    assert data_digest([]) is None


def test_a_file_that_was_changed_has_the_digest_of_the_last_look(tmp_path):
    record = made(tmp_path, "a", image=b"pixels")
    before = case_digest(record)
    (tmp_path / "a_image.png").write_bytes(b"other!")
    assert case_digest(record) == before, "what was loaded after that look"
    look_at(record["image"], 2)
    assert case_digest(record) != before


def test_of_all_cases_the_ids_count_and_not_the_order(tmp_path):
    one, other = (made(tmp_path, name, image=name.encode()) for name in "ab")
    both = data_digest([one, other])
    assert both == data_digest([other, one])
    assert both != data_digest([{**one, "id": "b"}, {**other, "id": "a"}])
    assert both != data_digest([one])
