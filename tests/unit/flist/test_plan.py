"""The image plan: arithmetic against a byte-by-byte model, and its file."""

import hashlib
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument, Unavailable
from g8node.flist.plan import BLOCK, ImagePlan, Kind, SlotTable, load, save
from g8node.wire.chunk import encode
from g8node.wire.flist import Codec

sizes = st.lists(st.integers(1, 3 * BLOCK), max_size=6)


def plan_of(
    chunk_sizes: list[int], metadata_blocks: int, path: str = "", aligned: list[bool] | None = None
) -> ImagePlan:
    starts, at = array("Q"), 0
    for size, whole in zip(chunk_sizes, aligned or [True] * len(chunk_sizes), strict=True):
        at = -(-at // BLOCK) * BLOCK if whole else at
        starts.append(at)
        at += size
    count = len(chunk_sizes)
    ids = b"".join(bytes([n + 1]) * 32 for n in range(count))
    names = b"".join(b"file %d\0" % n for n in range(count))
    names_at = array("I", [7 * n for n in range(count)])
    table = SlotTable(starts, array("I", chunk_sizes), names_at, bytes([Codec.G8]) * count, ids, ids, names)
    return ImagePlan(path, metadata_blocks * BLOCK, table, {"entrypoint": '["/bin/sh"]'})


def model(plan: ImagePlan) -> list[tuple[Kind, int, int]]:
    """Kind, chunk and inner offset of every byte."""
    cells = [(Kind.METADATA, -1, at) for at in range(plan.metadata_size)]
    for number, size in enumerate(plan.slots.sizes):
        cells += [(Kind.CHUNK, number, at) for at in range(size)]
        following = plan.slots.starts[number + 1] if number + 1 < len(plan.slots) else plan.slots.end()
        cells += [(Kind.ZERO, -1, 0)] * (following - plan.slots.starts[number] - size)
    return cells


@given(sizes, st.integers(1, 2), st.data())
@settings(max_examples=20, deadline=None)
def test_pieces_are_the_bytes_of_the_range(chunk_sizes: list[int], blocks: int, data: st.DataObject) -> None:
    plan = plan_of(chunk_sizes, blocks)
    cells = model(plan)
    assert plan.size == len(cells)
    offset = data.draw(st.integers(0, plan.size + BLOCK))
    length = data.draw(st.integers(0, 2 * plan.size))
    got = []
    for kind, number, inner, count in plan.plan(offset, length):
        assert count > 0
        step = 0 if kind == Kind.ZERO else 1
        got += [(kind, number, inner + step * i) for i in range(count)]
    assert got == cells[offset : offset + length]


def saved(plan: ImagePlan, folder: Path) -> bytes:
    metadata = b"m" * plan.metadata_size
    (folder / "meta.erofs").write_bytes(metadata)
    digest = hashlib.blake2b(metadata, digest_size=32).digest()
    save(plan, str(folder), metadata_digest=digest, flist_digest=b"d" * 32)
    return (folder / "slots.bin").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_load_reads_what_save_wrote(tmp_path: Path, count: int) -> None:
    plan = plan_of([5000] * count, 1, str(tmp_path / "meta.erofs"))
    saved(plan, tmp_path)
    loaded = load(str(tmp_path), flist_digest=b"d" * 32)
    assert loaded == plan
    assert [loaded.chunk(n).file_name for n in range(count)] == [b"file %d" % n for n in range(count)]


def test_load_refuses_any_damage(tmp_path: Path) -> None:
    data = saved(plan_of([5, 5000], 1), tmp_path)
    for at in range(0, len(data), 7):
        bad = bytearray(data)
        bad[at] ^= 0x40
        (tmp_path / "slots.bin").write_bytes(bad)
        with pytest.raises(Unavailable):
            load(str(tmp_path), flist_digest=b"d" * 32)
    (tmp_path / "slots.bin").write_bytes(data[:50])
    with pytest.raises(Unavailable, match="too short"):
        load(str(tmp_path), flist_digest=b"d" * 32)


def test_load_refuses_damaged_metadata(tmp_path: Path) -> None:
    saved(plan_of([5], 1), tmp_path)
    (tmp_path / "meta.erofs").write_bytes(b"m" * (BLOCK - 1) + b"x")
    with pytest.raises(Unavailable, match=r"meta\.erofs is damaged"):
        load(str(tmp_path), flist_digest=b"d" * 32)


def test_load_refuses_the_plan_of_another_flist(tmp_path: Path) -> None:
    saved(plan_of([5], 1), tmp_path)
    with pytest.raises(Unavailable, match="another flist"):
        load(str(tmp_path), flist_digest=b"e" * 32)


def reference_to(
    plain: bytes, size: int, *, secret: bytes = b"", codec: Codec = Codec.G8
) -> tuple[ImagePlan, bytes]:
    encoded = encode(plain, secret)
    table = SlotTable(
        array("Q", [0]), array("I", [size]), array("I", [0]), bytes([codec]), encoded.id, encoded.key, b"n\0"
    )
    return ImagePlan("", BLOCK, table, {}), encoded.stored


def test_chunk_decodes_itself() -> None:
    plan, stored = reference_to(b"hello", 5)
    assert plan.chunk(0).decode(stored) == b"hello"


def test_keyed_chunk_decodes_without_the_secret() -> None:
    plan, stored = reference_to(b"hello", 5, secret=b"s", codec=Codec.G8_KEYED)
    assert plan.chunk(0).decode(stored) == b"hello"


def test_chunk_shorter_than_the_flist_says_is_refused() -> None:
    plan, stored = reference_to(b"hello", 6)
    with pytest.raises(InvalidArgument, match="5 plain bytes, the flist says 6"):
        plan.chunk(0).decode(stored)
