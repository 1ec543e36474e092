"""A client that waits for the disk with each request is served by a thread, and nobody can tell."""

import asyncio
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from g8node.nbd import lone
from g8node.nbd.export import Export
from g8node.nbd.server import Server
from g8node.runtime import blocking
from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record
from g8node.vdisk.vdisks import Vdisks
from g8node.wire import nbd
from g8node.wire import nbd_handshake as hs
from tests.support.vdisks import Client

SIZE = 8 << 20
BLOCK = 4096
ENOUGH = 8
"""Durable requests after which a thread serves a client."""


class Watched:
    """The exports of a server; counts threads and what they wrote."""

    def __init__(self, inner: Vdisks) -> None:
        self._inner = inner
        self.written = 0
        self.most = 0
        """Threads at a time."""
        self._now = 0
        self.vdisk: PlainVdisk | None = None

    def names(self) -> Sequence[tuple[str, str]]:
        return self._inner.names()

    async def describe(self, name: str) -> hs.Description:
        return await self._inner.describe(name)

    async def open(self, name: str) -> Export:
        export = await self._inner.open(name)
        assert isinstance(export, PlainVdisk)
        if self.vdisk is None:
            self.vdisk, write = export, export.write_here

            def counted(offset: int, data: memoryview, *, durable: bool) -> None:
                self.written += 1
                write(offset, data, durable=durable)

            export.write_here = counted  # type: ignore[method-assign]
        self._watch_threads(export)
        return export

    def _watch_threads(self, export: PlainVdisk) -> None:
        take, give_back = export.take, export.give_back

        def taken() -> bool:
            is_taken = take()
            self._now += is_taken
            self.most = max(self.most, self._now)
            return is_taken

        def given_back() -> None:
            self._now -= 1
            give_back()

        export.take, export.give_back = taken, given_back  # type: ignore[method-assign]

    async def leave(self, name: str, export: Export, *, in_order: bool) -> None:
        await self._inner.leave(name, export, in_order=in_order)


@pytest.fixture
async def exports(tmp_path: Path) -> AsyncIterator[Watched]:
    vdisks = Vdisks(str(tmp_path / "vdisks"))
    await vdisks.start()
    for name in ("vd", "other"):
        await vdisks.create(Record(id=name, type="db", size=SIZE))
    yield Watched(vdisks)
    await vdisks.close()
    blocking.close()


@pytest.fixture
async def server(exports: Watched, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(exports)
    await server.listen_unix(str(tmp_path / "s"))
    yield server
    await server.close()
    assert lone.Lone.threads == 0


Scenario = Callable[[Client], None]


async def play(tmp_path: Path, scenario: Scenario, place: str = "s", name: str = "vd") -> None:
    def played() -> None:
        client = Client(str(tmp_path / place), name)
        try:
            scenario(client)
        finally:
            client.close()

    await asyncio.to_thread(played)


def durably(client: Client, count: int = ENOUGH) -> None:
    for number in range(count):
        client.write(number * BLOCK % SIZE, bytes([number % 255 + 1]) * BLOCK, nbd.CMD_FLAG_FUA)


@pytest.mark.parametrize("fua", [False, True])
async def test_what_a_lone_client_wrote_is_there(
    server: Server, exports: Watched, tmp_path: Path, fua: bool
) -> None:
    def scenario(client: Client) -> None:
        dice = random.Random(1)
        expected = bytearray(SIZE)
        for _ in range(200):
            data = dice.randbytes(dice.choice((512, BLOCK, BLOCK, 300_000)))
            offset = dice.randrange(0, SIZE - len(data))
            client.write(offset, data, nbd.CMD_FLAG_FUA if fua else 0)
            expected[offset : offset + len(data)] = data
            if not fua:
                client.flush()
        assert b"".join(client.read(at, 1 << 20) for at in range(0, SIZE, 1 << 20)) == expected

    await play(tmp_path, scenario)
    assert exports.written > 0
    assert exports.vdisk is not None
    assert exports.vdisk.counters.ops[nbd.CMD_WRITE] == 200
    assert exports.vdisk.counters.ops[nbd.CMD_FLUSH] == (0 if fua else 200)


async def test_whatever_else_a_lone_client_asks_is_answered(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        for _ in range(3):
            durably(client)
            assert client.read(0, BLOCK) == b"\1" * BLOCK
            durably(client)
            assert client.call(nbd.CMD_WRITE, SIZE, payload=b"x", flags=nbd.CMD_FLAG_FUA).error == nbd.ENOSPC
            durably(client)
            assert client.call(nbd.CMD_TRIM, 0, BLOCK, flags=nbd.CMD_FLAG_FUA).error == 0
            assert client.read(0, 2 * BLOCK) == bytes(BLOCK) + b"\2" * BLOCK
            durably(client)
            several = [client.prepare(nbd.CMD_WRITE, at * BLOCK, payload=b"z" * BLOCK) for at in range(3)]
            client.socket.sendall(b"".join([*several, client.prepare(nbd.CMD_FLUSH)]))
            assert [client.reply().error for _ in range(4)] == [0] * 4
            assert client.read(0, 4 * BLOCK) == b"z" * (3 * BLOCK) + b"\4" * BLOCK

    await play(tmp_path, scenario)
    assert exports.written > 0


async def test_request_of_a_lone_client_may_come_byte_by_byte(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        durably(client)
        for byte in client.prepare(nbd.CMD_WRITE, 0, payload=b"slow", flags=nbd.CMD_FLAG_FUA):
            client.socket.sendall(bytes([byte]))
        assert client.reply().error == 0
        assert client.read(0, 4) == b"slow"

    await play(tmp_path, scenario)


async def test_lone_client_that_does_not_speak_nbd_is_dropped(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        durably(client)
        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.closed_by_server()

    await play(tmp_path, scenario)


async def test_lone_client_may_leave_in_any_way(server: Server, exports: Watched, tmp_path: Path) -> None:
    def disconnect(client: Client) -> None:
        durably(client)
        client.send(nbd.CMD_DISC)
        assert client.closed_by_server()

    def half(client: Client) -> None:
        durably(client)
        client.socket.sendall(client.prepare(nbd.CMD_WRITE, 0, payload=b"x" * BLOCK)[:100])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed_by_server()

    for scenario in (disconnect, half, durably):
        await play(tmp_path, scenario)
    await server.close()  # the fixture closes once more
    assert server.connections == 0


async def test_server_ends_beside_a_lone_client(server: Server, exports: Watched, tmp_path: Path) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def scenario(client: Client) -> None:
        durably(client)
        loop.call_soon_threadsafe(ended.set)
        with pytest.raises(ConnectionError):
            durably(client, SIZE // BLOCK * 1000)

    playing = asyncio.create_task(play(tmp_path, scenario))
    await ended.wait()
    await server.close()
    await playing


async def test_failed_sync_of_a_lone_client_is_final_for_all(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        durably(client)
        other = Client(str(tmp_path / "s"))
        try:
            assert exports.vdisk is not None
            before, exports.vdisk.commits._sync = exports.vdisk.commits._sync, broken
            error = nbd.CMD_FLAG_FUA
            assert client.call(nbd.CMD_WRITE, 0, payload=b"x" * BLOCK, flags=error).error == nbd.EIO
            exports.vdisk.commits._sync = before
            for one in (client, other):
                assert one.call(nbd.CMD_WRITE, 0, payload=b"x" * BLOCK).error == nbd.EIO
                assert one.call(nbd.CMD_FLUSH).error == nbd.EIO
        finally:
            other.close()

    def broken() -> None:
        raise OSError(5, "disk")

    await play(tmp_path, scenario)


async def test_two_clients_that_wait_for_the_disk_both_get_on(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        for _ in range(10):
            durably(client)

    await asyncio.gather(*(play(tmp_path, scenario) for _ in range(3)))


async def test_lone_client_is_served_without_a_descriptor_more(
    server: Server, exports: Watched, tmp_path: Path
) -> None:
    def scenario(client: Client) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            durably(client, 5 * ENOUGH)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        durably(client)

    await play(tmp_path, scenario)
    assert exports.written > 0


async def test_servers_share_the_threads_of_lone_clients(
    server: Server, exports: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that waits for a thread would be served by nobody meanwhile."""
    monkeypatch.setattr(lone, "_LONE_MAX", 1)
    there = Server(exports)
    await there.listen_unix(str(tmp_path / "there"))

    def scenario(client: Client) -> None:
        for _ in range(20):
            durably(client)

    await asyncio.gather(play(tmp_path, scenario), play(tmp_path, scenario, "there", "other"))
    await there.close()
    assert exports.most == 1
