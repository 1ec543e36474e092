"""One server as one vdisk uses it (async): one connection, retries, and the way back from an outage.

    up -> down      no answer for `patience.total_s`, however often it was tried (one event)
    up -> down      it answers, but `accept` refuses what it holds (one event)
    down -> up      a probe was answered and accepted (one event, then `returned`)

A failed command is tried again with a growing pause, so a connection that breaks costs nobody an error. Every
command here may run twice. All commands of a server go over one connection, so they run in the order in which
they were sent.

Before a new connection is used, the broken one is ended at the server as well (CLIENT KILL): a server that
stood still would otherwise, once it goes on, do what it had received before, perhaps after newer commands.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.runtime import blocking, logs
from g8node.runtime.resp import Arg, Connection, ReplyError
from g8node.store.servers import tls_context
from g8node.vdisk.cluster import events
from g8node.vdisk.cluster.events import Event, Role, ServerData, Tell
from g8node.vdisk.cluster.settings import Server

log = logs.get("vdisk")

REPLY_BYTES_MAX: Final = 128 << 20
_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0
_PROBE_MAX: Final = 16
_LATE_S: Final = 0.05

Command = tuple[Arg | memoryview, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """`attempt_s`: silence after which a connection is given up; `total_s`: after that the server is.

    `probe_s`: the first pause between looks at a server that is down; it doubles up to 16 times that.
    `take_over_s`: how much longer a Redis Cluster gets to have a replica take over: twice its usual timeout.
    """

    attempt_s: float = 2.0
    total_s: float = 8.0
    probe_s: float = 0.5
    take_over_s: float = 30.0

    @classmethod
    def of(cls, total_s: float) -> "Patience":
        """A few attempts in that time."""
        return cls(attempt_s=min(2.0, total_s / 4), total_s=total_s, probe_s=min(0.5, total_s / 16))


class Refused(Unavailable):
    """The server answers, but what it holds cannot be used."""


Accept = Callable[["Member", bytes | None, int], None]
"""Looks at what the server has under `record_key`, and the number under `:flush`; raises Refused."""


class Member:
    """`name` is unique in the vdisk: `p0 host:port@db` for the first primary server, s0 for its slave."""

    def __init__(
        self,
        server: Server,
        number: int,
        *,
        role: Role,
        vdisk: str,
        patience: Patience,
        tell: Tell,
        record_key: str = "",
        accept: Accept | None = None,
    ) -> None:
        self.role: Role = role
        self.address = f"{server.address}@{server.db}"
        self.name = f"{role[0]}{number} {self.address}"
        self.why = ""
        """Why it is down; empty while it is up."""
        self.retries = 0
        """How often commands were sent again."""
        self.returned: Callable[[Member], None] = lambda _: None
        self._server = server
        self._vdisk = vdisk
        self._patience = patience
        self._tell = tell
        self._record_key = record_key
        self._accept = accept
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._client: tuple[str, int] | None = None
        self._fenced: set[tuple[str, int]] = set()
        self._closed = False
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"{self.role} server {self.name}"

    @property
    def up(self) -> bool:
        return not self.why

    def begin(self, command: Command) -> asyncio.Future[Any] | None:
        """The answer to come of a command that is sent once; None when that is not possible at once.

        Whoever gets an error of it must `call`.
        """
        connection = self._connection
        if self.why or connection is None or not connection.is_open:
            return None
        return connection.send(command)

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_open

    @property
    def late(self) -> bool:
        """Whether answers of it may take long."""
        connection = self._connection
        return bool(self.why) or connection is None or connection.silent_s > _LATE_S

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """A reply or ReplyError for each. Unavailable when the server is down or becomes so."""
        if self._connection is not None and self._connection.is_open and not self.why:
            replies = await self._exchange(self._connection, commands)
            if not any(isinstance(reply, Unavailable) for reply in replies):
                return replies
        else:
            replies = [Unavailable("")] * len(commands)
        return await self._insist(commands, replies)

    async def _insist(self, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
        """Try what has no answer yet until it has, or patience ends."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience.total_s
        pause_s = _PAUSE_S
        while True:
            error = await self._attempt(commands, replies)
            if error is None:
                return replies
            if isinstance(error, Refused) or loop.time() + pause_s >= end:
                self.give_up(str(error))
                raise Unavailable(f"{self!r}: {self.why}")
            self.retries += 1
            log.debug("server is tried again", server=repr(self), vdisk=self._vdisk, reason=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    async def _attempt(self, commands: Sequence[Command], replies: list[Any]) -> Unavailable | None:
        """Fill in the answers that are missing; the failure, if any is still missing."""
        if self.why or self._closed:
            raise Unavailable(f"{self!r}: {self.why or 'closed'}")
        missing = [at for at, reply in enumerate(replies) if isinstance(reply, Unavailable)]
        try:
            connection = await self.connect()
        except Unavailable as error:
            return error
        got = await self._exchange(connection, [commands[at] for at in missing])
        for at, reply in zip(missing, got, strict=True):
            replies[at] = reply
        return next((reply for reply in got if isinstance(reply, Unavailable)), None)

    async def once(self, commands: Sequence[Command]) -> list[Any]:
        """Like `together`, but a ReplyError is raised as Unavailable."""
        replies = await self.together(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise Unavailable(f"{self!r}: {reply}")
        return replies

    async def together(self, commands: Sequence[Command]) -> list[Any]:
        """Like `call`, but nothing is sent twice, and all of it goes over one connection."""
        if self.why:
            raise Unavailable(f"{self!r}: {self.why}")
        replies = await self._exchange(await self.connect(), commands)
        for reply in replies:
            if isinstance(reply, Unavailable):
                raise Unavailable(f"{self!r}: {reply}")
        return replies

    async def set_absent(self, key: str, fields: Mapping[int, bytes], dropped: Collection[int]) -> None:
        """Copies for the hash; once, since a repetition could come after a newer change."""
        connection = await self.connect()
        commands: list[Command] = [
            ("HSETNX", key, field, data) for field, data in fields.items() if field not in dropped
        ]
        if connection is self._connection:  # nothing was awaited since `dropped` was looked at
            await self.once(commands)
            return
        raise Unavailable(f"{self!r} closed the connection")

    async def _exchange(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        futures = [connection.send(command) for command in commands]
        replies: list[Any] = []
        try:
            for future in futures:
                try:
                    replies.append(await future)
                except (ReplyError, Unavailable) as error:
                    replies.append(error)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        if any(isinstance(reply, Unavailable) for reply in replies):
            self._drop(connection)
        return replies

    def _drop(self, connection: Connection) -> None:
        """What it was given may be done by the server or not, now or later."""
        connection.close()
        if self._connection is connection:
            self._connection = None
            if self._client is not None:
                self._fenced.add(self._client)

    async def connect(self) -> Connection:
        """The connection, made when there is none. Unavailable, Refused."""
        if self._connection is not None and self._connection.is_open:
            return self._connection
        if self._closed:
            raise Unavailable(f"{self!r}: closed")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: "asyncio.Task[Connection]") -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever waits has it

    async def _connect(self) -> Connection:
        if self._connection is not None:
            self._drop(self._connection)
        limit_s = self._patience.attempt_s
        host, port = self._server.place()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(repr(self), silence_s=limit_s, reply_bytes_max=REPLY_BYTES_MAX),
                    host,
                    port,
                    ssl=await self._tls(),
                )
                try:
                    await self._greet(connection)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            raise Unavailable(f"no connection within {limit_s:g} s") from None
        except OSError as error:
            number = None if isinstance(error, ssl.SSLError) else error.errno
            raise Unavailable(os.strerror(number) if number else str(error)) from error
        self._connection = connection
        return connection

    async def _tls(self) -> ssl.SSLContext | None:
        if self._server.tls and self._context is None:
            self._context = await blocking.run("disk", tls_context, self._server.authority)
        return self._context

    async def _greet(self, connection: Connection) -> None:
        """Log in, end the broken connections, look at the record."""
        try:
            if login := self._server.login():
                await connection.send(login)
            if self._server.db:
                await connection.send(("SELECT", self._server.db))
            client = await _client_of(connection)
            for run, number in self._fenced:
                if client is not None and run == client[0]:
                    await connection.send(("CLIENT", "KILL", "ID", number))
            self._fenced.clear()
            self._client = client
            if self._accept is not None:
                record = await connection.send(("GET", self._record_key))
                flushes = await connection.send(("GET", f"{self._record_key}:flush"))
                self._accept(self, record, int(flushes or 0))
        except (ReplyError, ValueError) as error:
            raise Unavailable(f"the server refused the connection: {error}") from error

    # Down and up again

    def give_up(self, why: str) -> None:
        """It is down from now on, until a probe finds it back."""
        if self.why or self._closed:
            return
        self.why = why or "does not answer"
        if self._connection is not None:
            self._drop(self._connection)
        log.error("server is given up", server=repr(self), vdisk=self._vdisk, reason=self.why)
        self._emit(events.status_of(self.why))
        self._probing = asyncio.create_task(self._probe(), name=f"probe {self!r}")

    def _emit(self, status: int) -> None:
        data = ServerData(self._server.address, self._server.db, self.role, self._vdisk)
        self._tell(Event("ardb", status, data))

    def tell(self, status: int) -> None:
        """An event about this server."""
        self._emit(status)

    async def _probe(self) -> None:
        pause_s = self._patience.probe_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PROBE_MAX * self._patience.probe_s)
            try:
                await self.connect()
            except Unavailable as error:
                self.why = str(error) or self.why
            else:
                break
        self.why = ""
        self._probing = None
        log.warning("server is back", server=repr(self), vdisk=self._vdisk)
        self._emit(events.RETURNED)
        self.returned(self)

    async def close(self) -> None:
        self._closed = True
        tasks = [task for task in (self._probing, self._connecting) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._connection is not None:
            self._connection.close()


async def _client_of(connection: Connection) -> tuple[str, int] | None:
    """The server's run and our number in it, by which a later connection ends this one."""
    with contextlib.suppress(ReplyError):  # ARDB has no such words
        number = await connection.send(("CLIENT", "ID"))
        info: bytes = await connection.send(("INFO", "server"))
        for row in info.splitlines():
            if row.startswith(b"run_id:"):
                return row[7:].decode(), number
    return None
