"""The packer: what is stored, what is not, and what happens when something goes wrong."""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from g8node.errors import Conflict, InvalidArgument, Unavailable
from g8node.flist.container import read_flist
from g8node.flist.image import prepare
from g8node.flist.pack import PackOptions, Progress, pack
from g8node.flist.source_dir import DirectorySource
from g8node.flist.tree import Flist, walk
from g8node.flist.verify import verify
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.wire.chunk import CHUNK_SIZE
from tests.support.trees import DictStore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a").write_bytes(b"same")
    (folder / "b").write_bytes(b"same")
    (folder / "c").write_bytes(os.urandom(CHUNK_SIZE) + b"x")  # a zero would be a hole
    return folder


async def test_equal_content_is_stored_once(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    result = await pack(str(source), str(tmp_path / "x"), store)
    assert len(store.chunks) == 3
    assert result.entries == 4
    assert result.progress.read_bytes == result.progress.total_bytes == CHUNK_SIZE + 9


async def test_second_pack_stores_nothing(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    await pack(str(source), str(tmp_path / "x"), store)
    puts = store.puts
    again = await pack(str(source), str(tmp_path / "y"), store)
    assert store.puts == puts
    assert again.progress.new_chunks == 0


async def test_zeros_and_holes_are_not_stored(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "zeros").write_bytes(bytes(100))
    (folder / "hole").touch()
    os.truncate(folder / "hole", 16 << 30)
    store = DictStore()
    result = await pack(str(folder), str(tmp_path / "x"), store)
    assert store.chunks == {}
    assert result.progress.read_bytes == 100, "a hole was read"


async def test_progress_is_told(source: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    await pack(str(source), str(tmp_path / "x"), DictStore(), PackOptions(progress=told.append))
    assert told[-1].chunks == 4
    assert told[-1].new_bytes > CHUNK_SIZE


async def test_secret_hides_what_is_packed(source: Path, tmp_path: Path) -> None:
    plain, keyed = DictStore(), DictStore()
    await pack(str(source), str(tmp_path / "x"), plain)
    result = await pack(str(source), str(tmp_path / "y"), keyed, PackOptions(secret=b"s"))
    assert not plain.chunks.keys() & keyed.chunks.keys()
    ref = await blocking.run("cpu", prepare, result.path, str(tmp_path / "cache"))
    assert (await verify(ref.plan, keyed, content=True)).findings == []


async def test_metadata_is_kept(source: Path, tmp_path: Path) -> None:
    info = {"entrypoint": '["/init"]', "environ": "{}"}
    result = await pack(str(source), str(tmp_path / "x"), DictStore(), PackOptions(info=info))
    got = dict((await blocking.run("cpu", read_flist, result.path)).info)
    assert len(got.pop("merkle")) == 64
    assert got == info


async def test_tar_and_directory_give_the_same_chunks(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    await blocking.run("disk", subprocess.check_call, ["tar", "-czf", archive, "-C", source, "."])
    from_tar, from_folder = DictStore(), DictStore()
    one = await pack(str(archive), str(tmp_path / "x"), from_tar)
    other = await pack(str(source), str(tmp_path / "y"), from_folder)
    assert from_tar.chunks == from_folder.chunks
    names = [[path for path, _ in walk(read.root)] for read in await _read_both(one.path, other.path)]
    assert names[0] == names[1]


async def _read_both(one: str, other: str) -> list[Flist]:
    return [await blocking.run("cpu", read_flist, path) for path in (one, other)]


class BrokenStore(DictStore):
    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        raise Unavailable("the store is down")


class SlowStore(DictStore):
    """Counts how many batches are in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(50):
            await asyncio.sleep(0)
        self.now -= 1
        return await super().missing(ids)


class AskedAtOnceStore(DictStore):
    """Answers no question before a second one is asked, or another batch has ended without one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.answer = asyncio.Event()

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        found = await super().missing(ids)
        self.asked += 1
        if self.asked > 1:
            self.answer.set()
        await self.answer.wait()
        return found


async def test_chunk_of_several_batches_is_counted_and_stored_once(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "same chunks").write_bytes(b"same" * (CHUNK_SIZE // 4) * 24)
    store = AskedAtOnceStore()
    options = PackOptions(progress=lambda _: store.answer.set())
    done = (await pack(str(folder), str(tmp_path / "x"), store, options)).progress
    (stored,) = store.chunks.values()
    assert (done.chunks, done.new_chunks, done.new_bytes, store.puts) == (24, 1, len(stored), 1)


async def test_failing_store_ends_the_pack_without_an_flist(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the store is down"):
        await pack(str(source), str(tmp_path / "x"), BrokenStore())
    assert not (tmp_path / "x").exists()


async def test_what_no_node_could_read_gets_no_flist(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="metadata has"):
        await pack(
            str(source), str(tmp_path / "x"), DictStore(), PackOptions(info={"readme": "x" * (2 << 20)})
        )
    assert sorted(os.listdir(tmp_path)) == ["source"]


async def test_batches_in_flight_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"big {number}").write_bytes(os.urandom(4 << 20))
    store = SlowStore()
    await pack(str(folder), str(tmp_path / "x"), store, PackOptions(level=0))
    assert 1 <= store.most <= 4
    assert len(store.chunks) == 48


async def test_file_that_changes_is_a_conflict(source: Path) -> None:
    opened = DirectorySource(str(source))
    (source / "b").write_bytes(b"other")
    with pytest.raises(Conflict, match="b' changed while it was packed"):
        list(opened.parts())


async def test_file_replaced_by_a_symlink_is_not_followed(source: Path) -> None:
    opened = DirectorySource(str(source))
    (source / "b").unlink()
    (source / "b").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        list(opened.parts())


async def test_source_that_is_nothing_packable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"just text")
    with pytest.raises(InvalidArgument, match="text"):
        await pack(str(tmp_path / "text"), str(tmp_path / "x"), DictStore())
    with pytest.raises(FileNotFoundError):
        await pack(str(tmp_path / "nothing"), str(tmp_path / "x"), DictStore())


async def test_verify_finds_what_is_missing_and_what_is_wrong(source: Path, tmp_path: Path) -> None:
    store = DictStore()
    result = await pack(str(source), str(tmp_path / "x"), store)
    ref = await blocking.run("cpu", prepare, result.path, str(tmp_path / "cache"))
    assert (await verify(ref.plan, store)).findings == []
    store.chunks[ref.plan.chunk(0).id] = b"bad"
    del store.chunks[ref.plan.chunk(1).id]
    assert [f.file_name for f in (await verify(ref.plan, store)).findings] == [b"c"]
    found = (await verify(ref.plan, store, content=True)).findings
    assert [(f.file_name, f.problem.split(":")[-1]) for f in found] == [
        (b"a", " stored bytes do not match the id"),
        (b"c", "missing"),
    ]
