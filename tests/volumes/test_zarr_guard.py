import gzip
import pickle
import struct

import numcodecs
import numpy as np
import pytest
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr_stores import entry_of, write_image

from pipeline.errors import InputError
from pipeline.volumes.ome_zarr import open_ome_zarr
from pipeline.volumes.zarr_guard import SLACK, check_chunk

PACKED = {"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip()}
CODECS = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "gzip": GzipCodec()}


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("size", [1, 200, 65_700, 70_000, 1 << 20, 3_000_001])
@pytest.mark.parametrize("varied", [False, True])
def test_a_chunk_is_known_by_what_it_unpacks_to(codec, size, varied):
    """Sizes below 256, 65,792 and above stand in the frame of Zstandard in three ways."""
    plain = np.arange(size).astype(np.uint8) if varied else np.zeros(size, np.uint8)
    chunk = memoryview(bytes(PACKED[codec].encode(plain)))
    check_chunk(chunk, codec, max(size - SLACK, 0), "0/0")
    if size > SLACK:
        with pytest.raises(InputError, match=r"its chunk '0/0' unpacks to more than the \d+ bytes"):
            check_chunk(chunk, codec, size - SLACK - 1, "0/0")


def test_gzip_in_several_members_and_cut_off():
    packed = gzip.compress(bytes(100_000)) + gzip.compress(bytes(100_000))
    check_chunk(memoryview(packed), "gzip", 200_000 - SLACK, "k")
    with pytest.raises(InputError):
        check_chunk(memoryview(packed), "gzip", 199_999 - SLACK, "k")
    for length in range(0, len(packed), 7):
        check_chunk(memoryview(packed[:length]), "gzip", 200_000, "k")


@pytest.mark.parametrize("codec", PACKED)
def test_what_is_too_short_is_left_to_the_decoder(codec):
    for content in (b"", b"\x28", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", bytes(15)):
        check_chunk(memoryview(content), codec, 1, "k")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_in_a_store(tmp_path, version, codec):
    """A chunk of a few kilobytes that unpacks to 32 MiB where 4 KiB are told."""
    packed = (PACKED if version == "0.4" else CODECS)[codec]
    entry = entry_of("zyx", [(1, 1, 1)], version=version)
    write_image(tmp_path / "x.zarr", version, [np.ones((16, 16, 32), np.uint8)], entry, compressors=packed)
    (found,) = open_ome_zarr(tmp_path / "x.zarr").images(3)
    found = pickle.loads(pickle.dumps(found))
    box = (slice(0, 16), slice(0, 16), slice(0, 16))
    assert found.read(box).all()
    chunk = tmp_path / "x.zarr" / "0" / ("0/0/0" if version == "0.4" else "c/0/0/0")
    assert chunk.is_file()
    chunk.write_bytes(PACKED[codec].encode(np.zeros(1 << 25, np.uint8)))
    assert chunk.stat().st_size < 1 << 18
    with pytest.raises(InputError, match=r"x\.zarr.*unpacks to more than the 4096 bytes of a chunk"):
        found.read(box)
    assert found.read((slice(0, 16), slice(0, 16), slice(16, 32))).all()


def test_a_blosc_header_that_claims_two_gibibytes():
    chunk = bytearray(PACKED["blosc"].encode(np.zeros(1000, np.uint8)))
    struct.pack_into("<I", chunk, 4, 2**31 - 1)
    with pytest.raises(InputError, match="unpacks to more than"):
        check_chunk(memoryview(chunk), "blosc", 1000, "k")
