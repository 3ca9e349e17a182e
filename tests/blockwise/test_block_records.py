import math

import pytest

from pipeline.blockwise.block_records import BlockRecords


def test_facts_come_back_to_the_bit(tmp_path):
    facts = {"counts": [1, 2], "mean": math.pi / 3}
    BlockRecords(tmp_path, {"input": "a"}).keep("block", facts)
    assert BlockRecords(tmp_path, {"input": "a"}).load("block") == facts


def test_they_belong_to_an_identity(tmp_path, monkeypatch):
    BlockRecords(tmp_path, {"input": "a", "weights": "b"}).keep("block", {})
    assert BlockRecords(tmp_path, {"weights": "b", "input": "a"}).load("block") == {}
    assert BlockRecords(tmp_path, {"input": "a", "weights": "c"}).load("block") is None
    assert BlockRecords(tmp_path, {"input": "a", "weights": "b"}).load("other") is None
    monkeypatch.setattr("pipeline.__version__", "another")
    assert BlockRecords(tmp_path, {"input": "a", "weights": "b"}).load("block") is None


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"a": 2}\n' + b"0" * 64, b"\n"])
def test_what_is_damaged_does_not_count(tmp_path, damage):
    records = BlockRecords(tmp_path, {})
    records.keep("block", {"a": 1})
    (file,) = records.folder.glob("*.json")
    file.write_bytes(damage)
    assert records.load("block") is None


def test_no_number_that_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        BlockRecords(tmp_path, {}).keep("block", {"a": math.nan})
    assert not list(tmp_path.rglob("*.json"))
