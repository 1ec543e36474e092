"""One server of a cluster, seen from a scripted one: what is sent again, and what comes before it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import hiredis
import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster.events import DISCONNECTED, RETURNED, SERVER_TIMEOUT, Event
from g8node.vdisk.cluster.member import Member, Patience
from g8node.vdisk.cluster.settings import Server

# A busy machine may stand still for a second: what is to succeed has all the time, what is to fail little.
PATIENT = Patience(attempt_s=60, total_s=600, probe_s=0.02)

Answer = Callable[[int, list[bytes]], bytes | None]
"""Of connection and command: what is answered, None for nothing."""


def usual(connection: int, command: list[bytes]) -> bytes | None:
    if command[:2] == [b"CLIENT", b"ID"]:
        return b":%d\r\n" % (100 + connection)
    if command[0] == b"INFO":
        return b"$11\r\nrun_id:abcd\r\n"
    if command[0] == b"GET":
        return b"$-1\r\n"
    return b"+OK\r\n"


class Script:
    """A server on loopback that remembers what it was told."""

    def __init__(self) -> None:
        self.answer: Answer = usual
        self.told: list[tuple[int, list[bytes]]] = []
        self._connections = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number, parser = self._connections, hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.told.append((number, command))
                answer = self.answer(number, command)
                if answer == b"bye":
                    writer.close()
                elif answer is not None:
                    writer.write(answer)
        writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    def words(self) -> list[tuple[int, bytes]]:
        return [(number, b" ".join(command)) for number, command in self.told]


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    await script.start()
    yield script
    await script.stop()


def member(port: int, told: list[Event], patience: Patience = PATIENT) -> Member:
    server = Server(f"127.0.0.1:{port}")
    return Member(server, 0, role="primary", vdisk="vd", patience=patience, tell=told.append)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the conditions are anything
            await asyncio.sleep(0.005)


async def test_broken_connection_is_ended_at_the_server_before_anything_is_sent_again(script: Script) -> None:
    script.answer = lambda number, command: (
        None if number == 1 and command[0] == b"HSET" else usual(number, command)
    )
    told: list[Event] = []
    one = member(script.port, told, Patience(attempt_s=0.2, total_s=600))
    await one.call([("HSET", "h", 1, "v")])
    words = [word for number, word in script.words() if number > 1]
    assert words.index(b"CLIENT KILL ID 101") < words.index(b"HSET h 1 v")
    assert told == []
    await one.close()


async def test_only_what_has_no_answer_is_sent_again(script: Script) -> None:
    script.answer = lambda number, command: (
        b"bye" if number == 1 and command[:2] == [b"SET", b"b"] else usual(number, command)
    )
    one = member(script.port, [])
    await one.call([("SET", "a", 1), ("SET", "b", 1), ("SET", "c", 1)])
    again = [command for number, command in script.words() if number == 2 and command.startswith(b"SET")]
    assert again == [b"SET b 1", b"SET c 1"]
    await one.close()


async def test_server_is_given_up_after_its_time_and_is_back_by_itself(script: Script) -> None:
    told: list[Event] = []
    one = member(script.port, told, Patience(attempt_s=0.2, total_s=0.5, probe_s=0.02))
    back: list[Member] = []
    one.returned = back.append
    script.answer = lambda number, command: None
    with pytest.raises(Unavailable):
        await one.call([("PING",)])
    assert not one.up
    assert [event.status for event in told] == [SERVER_TIMEOUT]
    with pytest.raises(Unavailable):  # at once
        await one.call([("PING",)])
    script.answer, one._patience = usual, PATIENT
    await until(lambda: bool(back))
    assert one.up
    assert [event.status for event in told] == [SERVER_TIMEOUT, RETURNED]
    await one.call([("PING",)])
    await one.close()


async def test_server_that_refuses_connections_is_told_so() -> None:
    told: list[Event] = []
    with socket.socket() as deaf:  # bound, so that nobody else listens there
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        one = member(port, told, Patience(attempt_s=60, total_s=0.5))
        with pytest.raises(Unavailable, match="refused"):
            await one.call([("PING",)])
        assert [event.status for event in told] == [DISCONNECTED]
        assert (told[0].data.address, told[0].data.vdisk) == (f"127.0.0.1:{port}", "vd")
        await one.close()
