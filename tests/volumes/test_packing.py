"""What is packed here, gzip unpacks, and the other way round."""

import gzip
import importlib
import io
import sys

import numpy as np
import pytest

from pipeline.volumes import packing

CONTENTS = {
    "nothing": b"",
    "one byte": b"x",
    "labels": np.repeat(np.arange(50, dtype=np.uint8) % 3, 40_000).tobytes(),
    "noise": np.random.default_rng(0).bytes(1_000_000),
}


@pytest.fixture(params=["as installed", "without isal"])
def packer(request, monkeypatch):
    if request.param == "as installed":
        yield packing
        return
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "isal", None)
        yield importlib.reload(packing)
    importlib.reload(packing)


def packed(packer, content, pieces=3):
    stream = io.BytesIO()
    with packer.packed(stream) as inner:
        for start in range(0, len(content), max(len(content) // pieces, 1)):
            inner.write(content[start : start + max(len(content) // pieces, 1)])
    return stream.getvalue()


@pytest.mark.parametrize("name", CONTENTS)
def test_gzip_reads_what_is_written_and_is_read(packer, name, tmp_path):
    content = CONTENTS[name]
    assert gzip.decompress(packed(packer, content)) == content
    file = tmp_path / "a.gz"
    for level in (0, 1, 9):
        file.write_bytes(gzip.compress(content, level) + gzip.compress(b"a second member"))
        with packer.unpacked(file) as stream:
            assert stream.read(len(content)) == content
            assert stream.read() == b"a second member"


def test_equal_content_gives_equal_bytes(packer):
    assert len({packed(packer, CONTENTS["labels"]) for _ in range(3)}) == 1
    assert len(packed(packer, CONTENTS["labels"])) < len(CONTENTS["labels"]) / 50


@pytest.mark.parametrize("damage", ["cut", "turned", "checksum"])
def test_damage_is_an_error(packer, damage, tmp_path):
    whole = bytearray(gzip.compress(CONTENTS["noise"]))
    if damage == "cut":
        del whole[-1000:]
    else:
        whole[{"turned": 5000, "checksum": -6}[damage]] ^= 4
    (tmp_path / "a.gz").write_bytes(whole)
    with packer.unpacked(tmp_path / "a.gz") as stream, pytest.raises(Exception, match=r"(?i)end|crc|invalid|Error"):
        stream.read()
