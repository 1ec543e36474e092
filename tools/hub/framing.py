"""Bodies of the chunk calls, the server's side (pure); `g8node.store.http` is the client's.

ids       n x 32 bytes
upload    repeated (32-byte id || u32 LE length || stored bytes)
download  for each id asked, in order: u32 LE length (ABSENT: not here) || stored bytes

Ids of old flists have another size, told by `?id=16` or `?id=64`.
"""

import struct
from collections.abc import Iterator
from typing import Final

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.wire.chunk import ID_SIZE, OVERHEAD, PLAIN_SIZE_MAX

ABSENT: Final = 0xFFFFFFFF
STORED_SIZE_MAX: Final = PLAIN_SIZE_MAX + OVERHEAD
_LENGTH: Final = struct.Struct("<I")
ID_SIZES: Final = (16, ID_SIZE, 64)


def id_size(text: str | None) -> int:
    """The size of the ids in a body, from the query's `id`."""
    if text is None:
        return ID_SIZE
    for size in ID_SIZES:
        if text == str(size):
            return size
    raise InvalidArgument(f"id {text[:20]!r}: expected one of 16, 32, 64")


def split_ids(body: bytes, count_max: int, size: int = ID_SIZE) -> list[ChunkId]:
    """The ids of a body. InvalidArgument unless it is a row of at most count_max ids."""
    if len(body) % size:
        raise InvalidArgument(f"body has {len(body)} bytes, expected a multiple of {size}")
    if len(body) > count_max * size:
        raise InvalidArgument(f"body has {len(body) // size} ids, expected at most {count_max}")
    return [ChunkId(body[at : at + size]) for at in range(0, len(body), size)]


def answer(stored: bytes | None) -> bytes:
    """One element of a download."""
    return _LENGTH.pack(ABSENT) if stored is None else _LENGTH.pack(len(stored)) + stored


class Uploads:
    """Feed a body in any pieces, iterate the chunks that are complete. Ids are claimed, not checked."""

    def __init__(self, size: int = ID_SIZE) -> None:
        self._buffer = bytearray()
        self._header = struct.Struct(f"<{size}sI")

    def feed(self, data: bytes) -> Iterator[tuple[ChunkId, bytes]]:
        self._buffer += data
        while len(self._buffer) >= self._header.size:
            id, length = self._header.unpack_from(self._buffer)
            if length > STORED_SIZE_MAX:
                raise InvalidArgument(
                    f"chunk {id.hex()}: {length} bytes announced, expected at most {STORED_SIZE_MAX}"
                )
            end = self._header.size + length
            if len(self._buffer) < end:
                return
            stored = bytes(memoryview(self._buffer)[self._header.size : end])
            del self._buffer[:end]
            yield ChunkId(id), stored

    def end(self) -> None:
        """The body is over: InvalidArgument if it ends inside a chunk."""
        if self._buffer:
            raise InvalidArgument(f"body ends inside a chunk, {len(self._buffer)} bytes after the last one")
