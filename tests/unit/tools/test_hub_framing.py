"""Bodies of the chunk calls, whatever the packet boundaries."""

import struct

import pytest

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8tools.hub import framing

CHUNKS = [(ChunkId(bytes([n]) * 32), bytes([n]) * (n * 7)) for n in range(4)]
BODY = b"".join(id + struct.pack("<I", len(stored)) + stored for id, stored in CHUNKS)


@pytest.mark.parametrize("piece", [1, 2, 35, 36, 37, 1000])
def test_uploads_do_not_depend_on_packet_boundaries(piece: int) -> None:
    parser = framing.Uploads()
    got = [chunk for at in range(0, len(BODY), piece) for chunk in parser.feed(BODY[at : at + piece])]
    parser.end()
    assert got == CHUNKS


def test_uploads_refuse_a_body_that_ends_inside_a_chunk() -> None:
    parser = framing.Uploads()
    assert list(parser.feed(BODY[:-1])) == CHUNKS[:-1]
    with pytest.raises(InvalidArgument, match="ends inside a chunk"):
        parser.end()


def test_uploads_refuse_a_lying_length_before_it_is_buffered() -> None:
    body = bytes(32) + struct.pack("<I", 0xFFFFFFFE)
    with pytest.raises(InvalidArgument, match=f"chunk {'00' * 32}: 4294967294 bytes announced"):
        list(framing.Uploads().feed(body))


def test_answers_have_length_or_absence() -> None:
    assert framing.answer(b"one") == b"\3\0\0\0one"
    assert framing.answer(b"") == bytes(4)
    assert framing.answer(None) == b"\xff" * 4


def test_ids_are_split() -> None:
    assert framing.split_ids(bytes(32) + b"\1" * 32, 2) == [bytes(32), b"\1" * 32]


@pytest.mark.parametrize(("size", "message"), [(33, "multiple of 32"), (96, "at most 2")])
def test_ids_of_a_wrong_body_are_refused(size: int, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        framing.split_ids(bytes(size), 2)
