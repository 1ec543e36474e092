"""The chunk codec: round trips, golden vectors, and everything that must be refused."""

import hashlib
import os

import cramjam
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.wire import chunk
from tests.support import golden


@given(st.binary(max_size=5000), st.binary(max_size=64), st.sampled_from([0, 1, 3, 19]))
def test_decode_reverses_encode(plain: bytes, secret: bytes, level: int) -> None:
    encoded = chunk.encode(plain, secret, level)
    assert chunk.decode(encoded.stored, encoded.id, encoded.key, len(plain), secret) == plain
    assert len(encoded.stored) <= len(plain) + chunk.OVERHEAD


@pytest.mark.parametrize(
    ("name", "plain", "secret", "level"),
    [("raw", b"hello", b"", 0), ("keyed", b"hello", b"secret", 0)],
)
def test_encode_gives_the_golden_bytes(name: str, plain: bytes, secret: bytes, level: int) -> None:
    vectors = golden.vectors()
    encoded = chunk.encode(plain, secret, level)
    assert encoded.stored == vectors[f"chunk.{name}.stored"]
    assert encoded.key == vectors[f"chunk.{name}.key"]
    assert encoded.id == vectors[f"chunk.{name}.id"]


def test_decode_reads_the_golden_zstd_chunk() -> None:
    vectors = golden.vectors()
    plain = chunk.decode(
        vectors["chunk.zstd.stored"], ChunkId(vectors["chunk.zstd.id"]), vectors["chunk.zstd.key"], 500
    )
    assert plain == b"hello" * 100


def test_full_chunk_of_text_is_compressed() -> None:
    assert len(chunk.encode(b"word " * 100_000).stored) < 1000


def test_incompressible_chunk_is_stored_raw() -> None:
    plain = os.urandom(10_000)
    assert len(chunk.encode(plain).stored) == len(plain) + chunk.OVERHEAD


def test_secret_changes_key_and_id() -> None:
    one, other = chunk.encode(b"same"), chunk.encode(b"same", b"secret")
    assert one.id != other.id
    assert one.key != other.key


def test_secret_over_64_bytes_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at most 64"):
        chunk.encode(b"", bytes(65))


def test_every_changed_byte_is_noticed() -> None:
    encoded = chunk.encode(b"hello", level=0)
    for at in range(len(encoded.stored)):
        bad = bytearray(encoded.stored)
        bad[at] ^= 1
        with pytest.raises(InvalidArgument, match="do not match the id"):
            chunk.decode(bytes(bad), encoded.id, encoded.key, 5)


def test_wrong_key_is_refused() -> None:
    encoded = chunk.encode(b"hello")
    with pytest.raises(InvalidArgument, match="does not open"):
        chunk.decode(encoded.stored, encoded.id, bytes(32), 5)
    with pytest.raises(InvalidArgument, match="expected 32"):
        chunk.decode(encoded.stored, encoded.id, encoded.key[:16], 5)


def seal(body: bytes, key: bytes = bytes(32)) -> tuple[bytes, ChunkId, bytes]:
    """A chunk that only its writer's malice is wrong with: id and tag are right."""
    stored = bytes(12) + AESGCM(key).encrypt(bytes(12), body, None)
    return stored, chunk.chunk_id(stored), key


def key_of(plain: bytes) -> bytes:
    return hashlib.blake2b(plain, digest_size=32).digest()


def test_plain_text_that_is_not_the_keys_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="does not match the key"):
        chunk.decode(*seal(b"\0other"), 100)


def test_key_of_an_unknown_secret_is_not_checked() -> None:
    encoded = chunk.encode(b"hello", b"secret")
    with pytest.raises(InvalidArgument, match="does not match the key"):
        chunk.decode(encoded.stored, encoded.id, encoded.key, 5)
    assert chunk.decode(encoded.stored, encoded.id, encoded.key, 5, None) == b"hello"


@pytest.mark.parametrize("body", [b"", b"\2data", b"\xff"])
def test_unknown_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"too few|unknown body type"):
        chunk.decode(*seal(body), 100)


def test_raw_chunk_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="more than 10 plain bytes"):
        chunk.decode(*seal(b"\0" + bytes(11)), 10)


def test_zstd_bomb_is_refused_without_unpacking_it() -> None:
    bomb = bytes(cramjam.zstd.compress(bytes(20 << 20), 19))
    with pytest.raises(InvalidArgument, match="zstd"):
        chunk.decode(*seal(b"\1" + bomb), 1 << 16)


def test_zstd_window_over_the_limit_is_refused() -> None:
    # A frame without content size whose window descriptor asks for 2 GiB.
    frame = bytes.fromhex("28b52ffd 00a8 010000")
    with pytest.raises(InvalidArgument, match="window"):
        chunk.decode(*seal(b"\1" + frame), 1 << 16)


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-3], lambda d: d + b"x", lambda d: d[:5], lambda d: b"\0" + d]
)
def test_broken_zstd_is_refused(spoil: "object") -> None:
    assert callable(spoil)
    packed = spoil(bytes(cramjam.zstd.compress(b"hello" * 100, 3)))
    with pytest.raises(InvalidArgument, match="zstd"):
        chunk.decode(*seal(b"\1" + packed, key_of(b"hello" * 100)), 1000)


@given(st.binary(max_size=200))
def test_decode_of_anything_answers_or_refuses(body: bytes) -> None:
    try:
        chunk.decode(*seal(b"\1\x28\xb5\x2f\xfd" + body), 1000)
    except InvalidArgument:
        return
