"""The shard formula and the keys, with the vectors of the specification (block-storage 2.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.errors import Unavailable
from g8node.vdisk.cluster import layout


def test_jump_hash_gives_the_known_buckets() -> None:
    assert [layout.jump(key, 4) for key in range(8)] == [0, 0, 3, 3, 1, 1, 2, 0]
    assert [layout.jump(key, 64) for key in (1, 2, 100)] == [55, 62, 44]


def test_objects_of_a_gone_server_are_spread_as_the_original_did() -> None:
    objects = range(1, 38, 4)
    assert [layout.server_of(one, 4, {1}) for one in objects] == [0, 2, 2, 0, 2, 3, 0, 3, 0, 2]


def test_objects_of_the_other_servers_stay() -> None:
    assert [layout.server_of(one, 4, {1}) for one in (0, 2, 3, 4, 102)] == [0, 2, 3, 0, 2]


def test_zero_block_has_the_known_hash() -> None:
    known = "686ede9288c391e7e05026e56f2f91bfd879987a040ea98445dabc76f55b8e5f"
    assert layout.content_hash(bytes(4096)).hex() == known


def test_keys_hold_ids_with_colons_whole() -> None:
    assert layout.plain_key("ubuntu:latest") == "nondedup:ubuntu:latest"
    assert layout.sectors_key("ubuntu:latest") == "lba:ubuntu:latest"


@given(st.integers(0, 1 << 60), st.integers(1, 64), st.sets(st.integers(0, 63)))
def test_a_gone_server_is_never_picked(index: int, count: int, gone: set[int]) -> None:
    if gone >= set(range(count)):
        with pytest.raises(Unavailable):
            layout.server_of(index, count, gone)
    else:
        server = layout.server_of(index, count, gone)
        assert server in range(count)
        assert server not in gone
        assert server == index % count or index % count in gone
