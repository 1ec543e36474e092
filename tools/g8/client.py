"""Client library of a node (async): the original client's words over redis.asyncio.

    async with Client("node", 6379, password=secret) as client:
        response = await client.bash("ls /", stream=True)
        await response.stream(lambda level, text, flags: print(text))
        print((await response.get()).stdout)

A command is pushed to core:default; its result is read from result:<id> by rotating the list, so that it can
be read again for five minutes (spec core0-protocol 2.5). Failures: InvalidArgument and PermissionDenied when
the gate refuses, Unavailable when the node cannot be reached, ResultError when a job failed.
"""

import asyncio
import contextlib
import secrets
import shlex
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from g8node.errors import InvalidArgument, NodeError, PermissionDenied, Unavailable
from g8tools.g8.tls import ContextConnection

T = TypeVar("T")

QUEUE: Final = "core:default"
SUCCESS: Final = "SUCCESS"
LEVEL_STDOUT: Final = 1
LEVEL_JSON: Final = 20
RESULT_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 10.0
_ACCEPT_S: Final = 10
_SLICE_S: Final = 10
_GRACE_S: Final = 15.0
_FLAGS: Final = 0xFFFF
_ENDED: Final = 0x6


class JobNotFoundError(NodeError):
    """The job was never accepted, or ended more than five minutes ago."""

    code = "not_found"
    status = 404


class ResultError(NodeError):
    """A job that did not end in SUCCESS; `result_code` is the job's code (processes: 1000 + exit status)."""

    def __init__(self, message: str, result_code: int = 0) -> None:
        super().__init__(message)
        self.result_code = result_code


class Result(msgspec.Struct, kw_only=True):
    """The result JSON of a job (spec 2.4). `starttime` and `time` are milliseconds."""

    id: str
    command: str = ""
    state: str = ""
    code: int = 0
    data: str = ""
    level: int = 0
    streams: tuple[str, str] | None = None
    critical: str = ""
    starttime: int = 0
    time: int = 0
    tags: list[str] | None = None
    container: int = 0

    @property
    def stdout(self) -> str:
        return self.streams[0] if self.streams else ""

    @property
    def stderr(self) -> str:
        return self.streams[1] if self.streams else ""

    def checked(self) -> Self:
        """Itself, or ResultError unless the state is SUCCESS."""
        if self.state != SUCCESS:
            raise ResultError(f"{self.command}: {self._reason()}", self.code)
        return self

    def json(self) -> Any:
        """The decoded data of a job that succeeded. ResultError (406) if it is no JSON."""
        self.checked()
        if self.level != LEVEL_JSON:
            raise ResultError(f"{self.command}: level {self.level} is no JSON", 406)
        return msgspec.json.decode(self.data)

    def _reason(self) -> str:
        data = self.data
        if self.level == LEVEL_JSON:
            with contextlib.suppress(msgspec.DecodeError):
                data = str(msgspec.json.decode(self.data))
        return f"{self.state} ({self.code}): {data or self.critical or self.stderr.strip() or 'no message'}"


class Message(NamedTuple):
    level: int
    text: str
    flags: int


class _Line(msgspec.Struct):
    message: str = ""
    meta: int = 0


class _Record(msgspec.Struct):
    """A log record (spec 5.1); who wrote it is known here."""

    message: _Line


def _print(level: int, text: str, _flags: int) -> None:
    stream = sys.stdout if level == LEVEL_STDOUT else sys.stderr
    stream.write(text)
    stream.flush()


class Response:
    """A job that was handed over."""

    def __init__(self, client: "Client", id: str) -> None:
        self._client = client
        self.id = id

    async def exists(self) -> bool:
        return bool(await self._client.call(self._client.redis.exists(f"result:{self.id}:flag")))

    async def running(self) -> bool:
        return int(await self._client.call(self._client.redis.ttl(f"result:{self.id}:flag"))) == -1

    async def get(self, timeout: float | None = None) -> Result:
        """The result. TimeoutError; JobNotFoundError. May be called again for five minutes."""
        deadline = time.monotonic() + (self._client.timeout_s if timeout is None else timeout)
        key = f"result:{self.id}"
        while True:
            if not await self.exists():
                raise JobNotFoundError(
                    f"job {self.id} is not known", hint="never accepted, or ended long ago"
                )
            left = deadline - time.monotonic()
            raw = await self._client.call(
                self._client.redis.brpoplpush(key, key, max(1, min(_SLICE_S, round(left))))
            )
            if raw is not None:
                return msgspec.json.decode(raw, type=Result)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no result of job {self.id} in time")

    async def messages(self) -> AsyncIterator[Message]:
        """Output as it comes, to the end of the job; needs `stream=True`. One reader a job."""
        while True:
            got = await self._client.call(self._client.redis.blpop([f"stream:{self.id}"], _SLICE_S))
            if got is None:
                if not await self.running():
                    return
                continue
            line = msgspec.json.decode(got[1], type=_Record).message
            yield Message(line.meta >> 16, line.message, line.meta & _FLAGS)
            if line.meta & _ENDED:
                return

    async def stream(self, callback: Callable[[int, str, int], object] = _print) -> int:
        """Call back (level, text, flags) for each message; the number of messages."""
        count = 0
        async for message in self.messages():
            callback(*message)
            count += 1
        return count


class Commands:
    """What host and container have in common."""

    async def raw(
        self,
        command: str,
        arguments: Mapping[str, Any],
        queue: str | None = None,
        max_time: int | None = None,
        stream: bool = False,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        recurring_period: int | None = None,
    ) -> Response:
        """Hand a command over and wait until the node has accepted it."""
        return await self._hand_over(
            {
                "id": id or secrets.token_hex(16),
                "command": command,
                "arguments": dict(arguments),
                "queue": queue or "",
                "max_time": max_time or 0,
                "stream": stream,
                "tags": list(tags) if tags is not None else None,
                "recurring_period": recurring_period or 0,
            }
        )

    async def _hand_over(self, command: dict[str, Any]) -> Response:
        raise NotImplementedError

    async def sync(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """The result of a command. ResultError unless it succeeded."""
        response = await self.raw(command, arguments or {}, tags=tags, id=id)
        return (await response.get(timeout)).checked()

    async def json(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """The decoded answer of a command."""
        return (await self.sync(command, arguments, timeout=timeout)).json()

    async def ping(self) -> str:
        return str(await self.json("core.ping"))

    async def system(
        self,
        command: str | Sequence[str],
        dir: str = "",
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        **job: Any,
    ) -> Response:
        """Start a process; a string is split as a shell would. `job`: the fields of `raw`."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        if not words:
            raise InvalidArgument("command: expected at least a program")
        arguments = {"name": words[0], "args": words[1:], "dir": dir, "stdin": stdin, "env": dict(env or {})}
        return await self.raw("core.system", arguments, **job)

    async def bash(self, script: str, stdin: str = "", **job: Any) -> Response:
        """Run a shell script."""
        return await self.raw("bash", {"script": script, "stdin": stdin}, **job)


class Client(Commands):
    """One node. A context manager; may be used by many tasks at once."""

    def __init__(
        self,
        host: str,
        port: int = 6379,
        password: str = "",
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = RESULT_TIMEOUT_S,
    ) -> None:
        self.timeout_s = timeout_s
        self.container = Containers(self)
        self._address = f"{host}:{port}"
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            "password": password or None,
            "protocol": 2,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            # Once more at once, for a connection that went stale; a command cannot run twice: it has an id.
            "retry": Retry(NoBackoff(), 1),
            "driver_info": None,  # the gate knows no CLIENT
        }
        if tls is not None:
            options |= {"connection_class": ContextConnection, "context": tls}
        self.redis = redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.redis.aclose()

    async def call(self, answer: Any) -> Any:
        """Await a Redis call and translate its failures. A blocking one waits at most `_SLICE_S` itself."""
        try:
            async with asyncio.timeout(_SLICE_S + _GRACE_S):
                return await cast(Awaitable[Any], answer)
        except redis.exceptions.AuthenticationError as error:
            raise PermissionDenied(f"node {self._address}: {error}", hint="check the password") from None
        except redis.exceptions.ResponseError as error:
            raise _refusal(str(error)) from None
        except (redis.exceptions.ConnectionError, OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise Unavailable(f"node {self._address}: {reason}") from error

    async def direct(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """A registered command as the first word: its decoded answer, without a job id to keep."""
        execute: Any = self.redis.execute_command
        raw = await self.call(execute(command, msgspec.json.encode(dict(arguments))))
        return msgspec.json.decode(raw)

    async def _hand_over(self, command: dict[str, Any]) -> Response:
        await self.call(self.redis.rpush(QUEUE, msgspec.json.encode(command)))
        response = Response(self, command["id"])
        await response_accepted(response)
        return response

    def response_for(self, id: str) -> Response:
        """The response of a job that was handed over before."""
        return Response(self, id)


async def response_accepted(response: Response) -> None:
    """Wait for the flag of an accepted job. Unavailable when it does not come (the node may be starting)."""
    flag = f"result:{response.id}:flag"
    client = response._client  # noqa: SLF001 - same module
    if await client.call(client.redis.brpoplpush(flag, flag, _ACCEPT_S)) is None:
        raise Unavailable(f"job {response.id} was not accepted within {_ACCEPT_S} s")


def _refusal(message: str) -> NodeError:
    word, _, rest = message.partition(" ")
    if word in ("NOPERM", "NOAUTH", "WRONGPASS"):
        return PermissionDenied(message)
    return InvalidArgument(rest if word == "ERR" else message)


class Containers:
    """Containers of one node."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self, root: str, timeout: float = 60.0, **arguments: Any) -> int:
        """Make a container from an flist (`corex.create`); its id."""
        tags = arguments.pop("tags", None)
        response = await self._client.raw("corex.create", {"root": root, **arguments}, tags=tags)
        return int((await response.get(timeout)).json())

    async def list(self) -> dict[str, Any]:
        """By id, as text."""
        return cast(dict[str, Any], await self._client.json("corex.list"))

    async def get(self, query: int | str) -> Any:
        """The container of that id or name, or None."""
        return await self._client.json("corex.get", {"query": query})

    async def terminate(self, container: int, timeout: float = 60.0) -> None:
        """Stop a container and wait until it is gone."""
        await self._client.sync("corex.terminate", {"container": container}, timeout=timeout)

    def client(self, container: int) -> "ContainerClient":
        """The same calls as on the node, inside a container."""
        return ContainerClient(self._client, container)


class ContainerClient(Commands):
    """Commands inside one container."""

    def __init__(self, client: Client, container: int) -> None:
        self._client = client
        self.id = container

    async def _hand_over(self, command: dict[str, Any]) -> Response:
        arguments = {"container": self.id, "command": command}
        inner = await self._client.json("corex.dispatch", arguments)
        return Response(self._client, str(inner))
