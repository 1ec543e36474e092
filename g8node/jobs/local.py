"""The local socket: `/run/core.sock`, for who is root on the node (async); spec core0-protocol 2.8.

Theory of operation. A connection carries one JSON object, `{sync, container, content: {command}}`, and one
JSON result back. The command runs as any other that a client sent: known ids answer with the one result there
is, as at the gate, and the caller is `local`, an admin. With `sync` the answer is the job's result; without,
a result of state SUCCESS whose `id` and `data` name the job. In a container (by id, or by tags with commas)
both work the same. Everything a peer may do is bounded: how many there are, how long and how large a request
is, how long it may take to read the answer; a peer that hangs up while its job runs frees its place.
"""

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw, Struct

from g8node.errors import Exhausted, InvalidArgument, NodeError, NotFound
from g8node.jobs.bus import Bus
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import LOCAL, Command, Level, Result, decode_command
from g8node.runtime import blocking, logs
from g8node.wire.jsonend import ObjectEnd

if TYPE_CHECKING:
    from g8node.node.container import Container

log = logs.get("local")

REQUEST_BYTES: Final = 16 << 20
REQUEST_S: Final = 5.0
ANSWER_S: Final = 30.0
CLIENTS_MAX: Final = 64
_READ_BYTES: Final = 256 << 10
_LOOK_S: Final = 2.0

SubmitInside = Callable[[Manager, "Container", Command], Job]


class _Request(Struct, frozen=True):
    """null equals absent, unknown fields are ignored."""

    content: Raw
    sync: bool | None = None
    container: str | int | None = None


class LocalSocket:
    """`start` listens, `stop` ends it; jobs go on."""

    def __init__(self, manager: Manager, bus: Bus, path: str, submit_inside: SubmitInside) -> None:
        self._manager = manager
        self._bus = bus
        self._path = path
        self._submit_inside = submit_inside
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._refused = 0
        manager.counters["local"] = self.state

    def state(self) -> dict[str, int]:
        return {"clients": len(self._clients), "refused": self._refused}

    async def start(self) -> None:
        """OSError when the socket cannot be made."""
        sock = await blocking.run("disk", _listening, self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=_READ_BYTES)

    async def stop(self) -> None:
        """No new peers, and those there are hung up on."""
        if self._server is not None:
            self._server.close()
            await blocking.run("disk", _remove, self._path)
        for writer in tuple(self._clients):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One peer. Its failures end its connection, nothing else."""
        self._clients.add(writer)
        try:
            answer = await self._answer(reader, writer)
            if answer is not None:
                async with asyncio.timeout(ANSWER_S):
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError):
            self._refused += 1  # it is gone, or does not read
        except Exception as error:  # the border of a peer: a bug ends its connection only
            log.error("bug while serving a peer", exc_info=error)
        finally:
            self._clients.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Result | None:
        """None when the peer left."""
        try:
            if len(self._clients) > CLIENTS_MAX:
                raise Exhausted(f"{CLIENTS_MAX} peers are being served")
            async with asyncio.timeout(REQUEST_S):
                request = await _read(reader)
            return None if request is None else await self._run(request, writer)
        except TimeoutError:
            self._refused += 1
            return _failure(InvalidArgument(f"no complete request within {REQUEST_S:.0f} s"))
        except NodeError as error:
            self._refused += 1
            return _failure(error)

    async def _run(self, request: _Request, writer: asyncio.StreamWriter) -> Result | None:
        command = msgspec.structs.replace(decode_command(request.content, needs_id=False), caller=LOCAL)
        submit = self._bus.submit
        if request.container not in (None, "", 0, "0"):
            container = self._container(request.container)

            def submit(command: Command) -> Job:
                return self._submit_inside(self._manager, container, command)

        taken = await self._bus.take(command, submit)
        if isinstance(taken, Result):
            return taken
        return await _ended(taken, writer) if request.sync else _accepted(taken)

    def _container(self, wanted: str | int | None) -> "Container":
        text = str(wanted)
        containers = self._manager.node.containers
        if text.isdecimal():
            found = containers.find_id(int(text))
        else:
            found = next(iter(containers.find([tag.strip() for tag in text.split(",")])), None)
        if found is None:
            raise NotFound(f"container {text[:80]!r} does not exist")
        return found


async def _read(reader: asyncio.StreamReader) -> _Request | None:
    """The request; what follows it is nobody's. None when the peer says nothing. InvalidArgument."""
    end, size = ObjectEnd(), 0
    parts: list[bytes] = []
    while True:
        data = await reader.read(_READ_BYTES)
        if not data:
            if parts:
                raise InvalidArgument("the request ends in the middle")
            return None
        size += len(data)
        if size > REQUEST_BYTES:
            raise InvalidArgument(f"request: expected at most {REQUEST_BYTES} bytes")
        try:
            length = end.feed(data)
        except ValueError as error:
            raise InvalidArgument(f"request: {error}") from None
        parts.append(data if length is None else data[:length])
        if length is not None:
            return _decoded(b"".join(parts))


def _decoded(data: bytes) -> _Request:
    try:
        return msgspec.json.decode(data, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"request: {error}") from error


async def _ended(job: Job, writer: asyncio.StreamWriter) -> Result | None:
    """The job's result; None when the peer hangs up before."""
    result = asyncio.ensure_future(job.result())
    try:
        while not result.done():
            await asyncio.wait((result,), timeout=_LOOK_S)
            if not result.done() and _has_left(writer):
                return None
        return result.result()
    finally:
        result.cancel()


def _has_left(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer closed both ways; one that only has nothing more to say still listens."""
    peer = writer.get_extra_info("socket")
    if peer is None or peer.fileno() < 0:
        return True
    look = select.poll()
    look.register(peer.fileno(), 0)  # POLLHUP and POLLERR come unasked
    return bool(look.poll(0))


def _accepted(job: Job) -> Result:
    named = msgspec.json.encode(job.id).decode()
    return Result(
        job.id,
        job.request.command,
        "SUCCESS",
        data=named,
        level=Level.RESULT_JSON,
        starttime=time.time_ns() // 1_000_000,
        tags=job.request.tags,
        container=job.container,
    )


def _failure(error: NodeError) -> Result:
    """As the original: the text in the second stream; and as a builtin's failure, data and code."""
    data = msgspec.json.encode(str(error)).decode()
    return Result("", "", "ERROR", error.status, data, Level.RESULT_JSON, streams=("", str(error)))


def _listening(path: str) -> socket.socket:
    """A socket that only root can open, whatever the umask is."""
    _remove(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # before bind: the file is made with it
        sock.bind(path)
        sock.listen(CLIENTS_MAX)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
