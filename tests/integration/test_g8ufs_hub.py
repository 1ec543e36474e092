"""The HTTP store and the mounts against a real Hub."""

from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, NotFound, PermissionDenied
from g8node.ids import ChunkId
from g8node.store.http import HttpStore
from tests.support.chunks import some_chunks
from tests.support.hub import TOKEN, hub


async def test_http_store_speaks_with_the_hub(tmp_path: Path) -> None:
    chunks = some_chunks(300, size=100)
    absent = ChunkId(bytes(32))
    with hub(tmp_path) as running:
        store = HttpStore(running.url, token=TOKEN)
        assert await store.missing([*chunks]) == set(chunks)
        await store.put_many(chunks)
        assert await store.missing([*chunks, absent]) == {absent}
        answers = await store.get_many([*chunks, absent])
        assert isinstance(answers.pop(absent), NotFound)
        assert answers == chunks
        one = next(iter(chunks))
        assert await store.get_many([one]) == {one: chunks[one]}
        with pytest.raises(InvalidArgument):
            await store.put_many({absent: b"other bytes"})
        await store.close()


async def test_http_store_without_a_token_may_not_write(tmp_path: Path) -> None:
    with hub(tmp_path) as running:
        store = HttpStore(running.url)
        with pytest.raises(PermissionDenied):
            await store.put_many(some_chunks(1))
        await store.close()
