"""Chunks of the original's generations: golden vectors, round trips, and what must be refused."""

import hashlib

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire import codecs, kernels, oldchunk
from g8node.wire.flist import Codec
from tests.support import golden

OLD = [Codec.V1, Codec.V2, Codec.V3]


@pytest.mark.parametrize("codec", [Codec.V2, Codec.V3])
def test_hello_gives_the_golden_bytes(codec: Codec) -> None:
    vectors, name = golden.vectors(), f"chunk.{codec.name.lower()}"
    made = codecs.encode(codec, b"hello")
    size = len(vectors[f"{name}.key"])
    assert made.key[:size] == vectors[f"{name}.key"]
    assert made.stored == vectors[f"{name}.stored"]
    assert codecs.stored_as(codec, made.id) == vectors[f"{name}.id"]


@pytest.mark.parametrize("xxtea", [kernels.xxtea, kernels.slow_xxtea])
def test_xxtea_of_the_golden_chunk(monkeypatch: pytest.MonkeyPatch, xxtea: object) -> None:
    monkeypatch.setattr(oldchunk, "xxtea", xxtea)
    vectors = golden.vectors()
    sealed = oldchunk.xxtea_seal(vectors["chunk.v2.snappy"], vectors["chunk.v2.key"])
    assert sealed == vectors["chunk.v2.stored"]
    assert oldchunk.xxtea_open(sealed, vectors["chunk.v2.key"]) == vectors["chunk.v2.snappy"]


def test_key_with_a_nul_is_used_as_it_is() -> None:
    plain = next(
        text
        for text in (b"text %d" % n for n in range(10_000))
        if 0 in hashlib.blake2b(text, digest_size=16).digest()[1:8]
    )
    made = codecs.encode(Codec.V2, plain)
    assert codecs.decode(Codec.V2, made.stored, made.id, made.key, len(plain)) == plain
    cut_at_nul = made.key[: made.key.index(0)].ljust(16, b"\0")
    assert oldchunk.xxtea_seal(bytes(cramjam.snappy.compress_raw(plain)), cut_at_nul) != made.stored


@given(st.binary(min_size=1, max_size=3000), st.sampled_from(OLD))
@settings(max_examples=60, deadline=None)
def test_chunk_survives(plain: bytes, codec: Codec) -> None:
    made = codecs.encode(codec, plain)
    assert (len(made.id), len(made.key)) == (32, 32)
    assert codecs.is_stored_as(codecs.stored_as(codec, made.id), made.stored)
    assert codecs.decode(codec, made.stored, made.id, made.key, len(plain)) == plain


@pytest.mark.parametrize("codec", OLD)
def test_every_flipped_byte_is_refused(codec: Codec) -> None:
    made = codecs.encode(codec, b"some text to keep")
    # Nobody looks at the header of v1.
    for at in range(16 if codec == Codec.V1 else 0, len(made.stored)):
        bad = bytearray(made.stored)
        bad[at] ^= 1
        assert not codecs.is_stored_as(codecs.stored_as(codec, made.id), bytes(bad))
        with pytest.raises(InvalidArgument, match="do not match the id"):
            codecs.decode(codec, bytes(bad), made.id, made.key, 17)


@pytest.mark.parametrize("codec", OLD)
def test_wrong_key_is_refused(codec: Codec) -> None:
    made, other = codecs.encode(codec, b"some text"), codecs.encode(codec, b"another text")
    with pytest.raises(InvalidArgument, match="chunk"):
        codecs.decode(codec, made.stored, made.id, other.key, 9)


@pytest.mark.parametrize("codec", OLD)
@pytest.mark.parametrize("size", [8, 10])
def test_size_that_differs_is_refused(codec: Codec, size: int) -> None:
    made = codecs.encode(codec, b"some text")
    with pytest.raises(InvalidArgument, match="plain bytes"):
        codecs.decode(codec, made.stored, made.id, made.key, size)


def sealed(body: bytes) -> tuple[bytes, bytes, bytes]:
    """A v2 chunk of this body: stored, id, key."""
    key = hashlib.blake2b(b"x", digest_size=16).digest()
    stored = oldchunk.xxtea_seal(body, key)
    return stored, hashlib.blake2b(stored, digest_size=16).digest() + bytes(16), key + bytes(16)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xff\xff\xff\x0f" + b"a" * 20, "more than 100 plain bytes"),
        (b"\x05\x10ab", "snappy"),
        (b"\x63", "snappy"),
        (b"\x02\x04xy", "does not match the key"),
    ],
)
def test_body_that_lies_is_refused(body: bytes, message: str) -> None:
    stored, id, key = sealed(body)
    with pytest.raises(InvalidArgument, match=message):
        codecs.decode(Codec.V2, stored, id, key, 100)


@pytest.mark.parametrize("data", [b"", b"1234", b"123456789", b"1" * 16])
def test_no_xxtea_text_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        oldchunk.xxtea_open(data, b"k" * 16)


def test_stored_bytes_without_end_are_refused() -> None:
    stored, id, key = sealed(b"x" * 10_000)
    with pytest.raises(InvalidArgument, match="more than 100 plain bytes"):
        codecs.decode(Codec.V2, stored, id, key, 100)


def test_v3_chunk_of_no_bytes_is_refused() -> None:
    id = hashlib.blake2b(b"", digest_size=32).digest()
    with pytest.raises(InvalidArgument, match="too few"):
        codecs.decode(Codec.V3, b"", id, bytes(32), 5)


def test_chunk_that_the_flist_forgot_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="does not say"):
        codecs.decode(Codec.ABSENT, b"", bytes(32), bytes(32), 5)
    with pytest.raises(InvalidArgument, match="cannot be written"):
        codecs.encode(Codec.ABSENT, b"x")


def test_names_in_stores() -> None:
    id = bytes(range(32))
    assert codecs.stored_as(Codec.V1, id) == id.hex().encode()
    assert codecs.stored_as(Codec.V2, id) == id[:16]
    assert codecs.stored_as(Codec.G8, id) == codecs.stored_as(Codec.V3, id) == id
