"""Golden vectors: where a vdisk's fields lie in a Redis Cluster. Slots are CLUSTER KEYSLOT's of redis 7.0."""

import pytest

from g8node.store.cluster import SLOTS, slot_of
from g8node.vdisk.cluster.layout import PARTS, content_hash, part_key, plain_key, sectors_key


@pytest.mark.parametrize(
    ("key", "index", "part", "slot"),
    [
        (plain_key("vd1"), 0, b"nondedup:{0:vd1}", 920),
        (plain_key("vd1"), 1, b"nondedup:{1:vd1}", 10697),
        (plain_key("vd1"), 1025, b"nondedup:{1:vd1}", 10697),
        (sectors_key("ubuntu:latest"), 5000, b"lba:{904:ubuntu:latest}", 5072),
        (plain_key("odd}{id"), 7, b"nondedup:{7:odd}{id}", 13294),
    ],
)
def test_part_and_slot_of_a_field(key: str, index: int, part: bytes, slot: int) -> None:
    assert part_key(key, index) == part
    assert slot_of(part) == slot


def test_slot_of_content() -> None:
    assert slot_of(content_hash(bytes(4096))) == 13680


@pytest.mark.parametrize("vdisk", ["vd1", "}", "{", "a}b{c"])
def test_parts_of_any_vdisk_lie_all_over_the_slots(vdisk: str) -> None:
    thirds = [slot_of(part_key(plain_key(vdisk), number)) * 3 // SLOTS for number in range(PARTS)]
    assert min(thirds.count(third) for third in range(3)) > PARTS // 4
