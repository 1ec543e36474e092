"""The connection to redis at the moments when it breaks."""

import asyncio
from pathlib import Path

import pytest

from g8node.errors import Unavailable
from g8node.jobs.link import Link
from g8node.runtime.resp import Connection


async def test_call_on_a_connection_that_was_lost_fails_at_once() -> None:
    connection = Connection()
    connection.connection_lost(None)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(connection.send(("PING",)), 60)


async def test_peer_that_hangs_up_at_once_never_leaves_a_call_waiting(tmp_path: Path) -> None:
    socket = str(tmp_path / "s")

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_unix_server(hang_up, socket)
    link = Link(socket)
    for _ in range(100):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(link.call("PING"), 60)
    await link.close()
    server.close()
