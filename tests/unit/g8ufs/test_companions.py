"""A program brings what it is linked with."""

import asyncio
from array import array
from typing import Any, cast

from g8node.errors import Unavailable
from g8node.flist.plan import ChunkRef, ImagePlan, SlotTable
from g8node.g8ufs.companions import Companions
from g8node.store.base import Store
from g8node.store.memory import MemoryStore
from g8node.wire.flist import Codec

CHUNK = 512 << 10


def program(*libraries: bytes) -> bytes:
    return b"\x7fELF" + bytes(60) + b"\0" + b"\0".join(libraries) + b"\0"


FILES: dict[bytes, list[bytes]] = {
    b"bin/odd.so.6": [b"x"],
    b"bin/tool": [program(b"ld-linux.so.2", b"libone.so.1", b"libgone.so.3"), b"middle", b"end"],
    b"etc/ld.so.cache": [b"cache"],
    **{b"lib/a%02d" % n: [b"between"] for n in range(70)},
    b"lib/ld-linux.so.2": [program()],
    b"lib/libone.so.1.7": [program(b"libtwo.so.2", b"libone.so.1"), b"rest of one"],
    b"lib/libone.so.10": [b"another"],
    b"lib/libtwo.so.2": [program(b"libone.so.1")],
    b"lib/z": [b"last"],
}


CHUNKS = [(name, chunk) for name, chunks in FILES.items() for chunk in chunks]
"""In slot order; a chunk's id is its number."""


def plan_of(size: int) -> ImagePlan:
    starts = {name: sum(len(each) + 1 for each in list(FILES)[:n]) for n, name in enumerate(FILES)}
    slots = SlotTable(
        starts=array("Q", range(0, size * len(CHUNKS), size)),
        sizes=array("I", [size] * len(CHUNKS)),
        names_at=array("I", [starts[name] for name, _ in CHUNKS]),
        codecs=bytes([Codec.G8]) * len(CHUNKS),
        ids=b"".join(b"%32d" % slot for slot in range(len(CHUNKS))),
        keys=bytes(32 * len(CHUNKS)),
        names=b"".join(name + b"\0" for name in FILES),
    )
    return ImagePlan("", 0, slots, {})


class Fetcher:
    """Answers with the files' chunks, or fails for some of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.failing: set[bytes] = set()
        self.hanging = False
        self.begun = asyncio.Event()

    async def get(self, store: Store, ref: ChunkRef) -> bytes:
        name, chunk = CHUNKS[int(ref.id)]
        self.asked.append((name, chunk))
        self.begun.set()
        await asyncio.sleep(1000 if self.hanging else 0)
        if name in self.failing:
            raise Unavailable("gone")
        return chunk

    @property
    def names(self) -> set[bytes]:
        return {name for name, _ in self.asked}


class Image:
    def __init__(self, *, enabled: bool = True, size: int = CHUNK) -> None:
        self.fetcher = Fetcher()
        fetcher = cast(Any, self.fetcher)
        self.companions = Companions(plan_of(size), MemoryStore(), fetcher, enabled=enabled)

    def arrive(self, name: bytes, number: int = 0) -> None:
        slot = next(slot for slot, (of, _) in enumerate(CHUNKS) if of == name) + number
        self.companions.arrived(slot, CHUNKS[slot][1])

    async def settled(self) -> "Image":
        while self.companions._tasks:
            await asyncio.wait(self.companions._tasks)
        return self


async def test_a_program_brings_its_libraries_and_theirs() -> None:
    image = Image()
    image.arrive(b"bin/tool")
    await image.settled()
    asked = image.fetcher.asked
    assert asked[0][0] == b"lib/ld-linux.so.2"
    wanted = {b"bin/tool", b"etc/ld.so.cache", b"lib/ld-linux.so.2", b"lib/libone.so.1.7", b"lib/libtwo.so.2"}
    # What lies right behind a file comes with it.
    assert image.fetcher.names - {b"lib/a00", b"lib/libone.so.10", b"lib/z"} == wanted
    assert [chunk for name, chunk in asked if name == b"bin/tool"] == [b"end", b"middle"]


async def test_nothing_comes_twice() -> None:
    image = Image()
    image.arrive(b"bin/tool")
    before = len((await image.settled()).fetcher.asked)
    image.arrive(b"bin/tool")
    image.arrive(b"lib/libone.so.1.7")
    assert len((await image.settled()).fetcher.asked) == before


async def test_other_files_and_other_chunks_bring_nothing() -> None:
    image = Image()
    image.arrive(b"bin/odd.so.6")
    image.arrive(b"bin/tool", 1)
    image.companions.arrived(2, program(b"libone.so.1"))  # in the middle of a file
    assert (await image.settled()).fetcher.asked == []


async def test_it_can_be_off() -> None:
    image = Image(enabled=False)
    image.arrive(b"bin/tool")
    assert (await image.settled()).fetcher.asked == []


async def test_a_library_that_fails_keeps_nothing_else_away() -> None:
    image = Image()
    image.fetcher.failing = {b"lib/ld-linux.so.2", b"etc/ld.so.cache", b"lib/a00"}
    image.arrive(b"bin/tool")
    assert b"lib/libtwo.so.2" in (await image.settled()).fetcher.names


async def test_large_files_are_left_to_their_readers() -> None:
    image = Image(size=17 << 20)
    image.arrive(b"bin/tool")
    await image.settled()
    assert (b"lib/libone.so.1.7", b"rest of one") not in image.fetcher.asked
    assert b"lib/ld-linux.so.2" in image.fetcher.names


async def test_close_ends_what_is_under_way() -> None:
    image = Image()
    image.fetcher.hanging = True
    image.arrive(b"bin/tool")
    await asyncio.wait_for(image.fetcher.begun.wait(), 60)
    await image.companions.close()
    assert not image.companions._tasks
