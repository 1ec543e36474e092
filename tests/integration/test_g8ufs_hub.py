"""The HTTP store and the mounts against a real Hub."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, NotFound, PermissionDenied
from g8node.ids import ChunkId
from g8node.store.http import HttpStore
from g8node.store.local import LocalStore
from tests.support.chunks import some_chunks
from tests.support.hub import TOKEN, hub


async def test_http_store_speaks_with_the_hub(tmp_path: Path) -> None:
    chunks = some_chunks(300, size=100)
    absent = ChunkId(bytes(32))
    with hub(tmp_path) as running:
        store = running.store(TOKEN)
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
        store = running.store()
        with pytest.raises(PermissionDenied):
            await store.put_many(some_chunks(1))
        await store.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody asks."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


async def test_folder_of_chunks_behind_a_file_server_is_read(tmp_path: Path) -> None:
    chunks = some_chunks(20, size=100)
    absent = ChunkId(bytes(32))
    await LocalStore(str(tmp_path)).put_many(chunks)
    one = next(iter(chunks))
    with file_server(tmp_path) as url:
        store = HttpStore(f"{url}/")
        assert await store.get_many([one]) == {one: chunks[one]}
        answers = await store.get_many([*chunks, absent])
        assert isinstance(answers.pop(absent), NotFound)
        assert answers == chunks
        await store.close()
