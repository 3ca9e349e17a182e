"""A zarr store that refuses chunks which unpack to more than they are said to hold, before they are unpacked."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from pipeline.errors import InputError
from pipeline.volumes.header import RESTORE

SLACK = 1 << 16  # bytes more than a chunk's own, for checksums and the like
PIECE = 1 << 20
ZSTD = b"\x28\xb5\x2f\xfd"
GZIP = b"\x1f\x8b"
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class GuardedStore(WrapperStore[Store]):
    """What a store holds, but no chunk that unpacks to more than `most` bytes.

    Blosc and Zstandard say at a chunk's begin how much memory they will ask for; of gzip it is counted, which costs as
    much time as the unpacking. Chunks within a shard are looked at where they are read one by one.

    Args:
        store: the store.
        codec: the compression of its chunks: "blosc", "zstd" and "gzip" are looked at.
        most: bytes of a chunk once unpacked.
    """

    def __init__(self, store: Store, codec: str, most: int) -> None:
        super().__init__(store)
        self._codec, self._most = codec, most

    def _with_store(self, store: Store) -> GuardedStore:
        return type(self)(store, self._codec, self._most)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is stored under a key, None where there is nothing."""
        found = await super().get(key, prototype, byte_range)
        if found is not None and not key.endswith(METADATA) and self._codec in UNPACKED:
            check_chunk(found.as_numpy_array().data, self._codec, self._most, key)
        return found


def check_chunk(chunk: memoryview, codec: str, most: int, key: str) -> None:
    """Raise for a packed chunk that unpacks to more than `most` bytes."""
    unpacked = UNPACKED[codec](chunk, most + SLACK)
    if unpacked > most + SLACK:
        raise InputError(f"its chunk '{key}' unpacks to more than the {most} bytes of a chunk", remedy=RESTORE)


def _of_blosc(chunk: memoryview, most: int) -> int:
    return int(struct.unpack_from("<I", chunk, 4)[0]) if len(chunk) >= 16 else 0


def _of_zstd(chunk: memoryview, most: int) -> int:
    """Return the size that the frame's header tells, 0 where it does not."""
    if len(chunk) < 18 or bytes(chunk[:4]) != ZSTD:
        return 0
    kind, single, dictionary = chunk[4] >> 6, chunk[4] >> 5 & 1, (0, 1, 2, 4)[chunk[4] & 3]
    size = (1 if single else 0, 2, 4, 8)[kind]
    begin = 5 + (not single) + dictionary
    return int.from_bytes(chunk[begin : begin + size], "little") + (256 if size == 2 else 0)


def _of_gzip(chunk: memoryview, most: int) -> int:
    """Count what comes out, member by member, until it is too much."""
    count, left = 0, bytes(chunk)
    while left[:2] == GZIP and count <= most:
        stream = zlib.decompressobj(31)
        while not stream.eof and count <= most:
            piece = stream.decompress(left, PIECE)
            count, left = count + len(piece), stream.unconsumed_tail
            if not piece and not left:
                break
        left = stream.unused_data
    return count


UNPACKED: dict[str, Callable[[memoryview, int], int]] = {"blosc": _of_blosc, "zstd": _of_zstd, "gzip": _of_gzip}


def guarded(store: Any, codecs: set[str], most: int) -> Any:
    """Return a store that is looked at, if its chunks are packed by one of the codecs that tell or are counted."""
    packed = codecs & UNPACKED.keys()
    return GuardedStore(store, packed.pop(), most) if packed else store
