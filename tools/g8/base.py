"""What a node and a container have in common (pure): jobs handed over, their results, their output."""

import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic

import msgspec

from g8node.errors import InvalidArgument, Unavailable
from g8tools.g8.flow import Flow, M, Request, Runs, call, each, value
from g8tools.g8.results import (
    ENDED,
    LEVEL_STDOUT,
    JobNotFoundError,
    Message,
    Return,
    decode_record,
)

QUEUE: Final = "core:default"
TIMEOUT_S: Final = 10.0
_SLICE_S: Final = 10.0
_LEAST_S: Final = 0.05

Callback = Callable[[int, str, int], object]


def print_message(level: int, text: str, _flags: int) -> None:
    """Level 1 to stdout, everything else to stderr."""
    stream = sys.stdout if level == LEVEL_STDOUT else sys.stderr
    stream.write(text)
    stream.flush()


class Deadline:
    """A time limit over several waits."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s

    def slice_s(self) -> float:
        """How long the next wait may be; 0 would be for ever."""
        return max(min(_SLICE_S, self._end - time.monotonic()), _LEAST_S)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end


class Response(Runs[M], Generic[M]):
    """A job that was handed over."""

    def __init__(self, client: "BaseClient[M]", id: str) -> None:
        self._client = client
        self.id = id

    def perform(self, flow: Flow[Any]) -> Any:
        return self._client.perform(flow)

    def repeat(self, make: Callable[[], Flow[Any]]) -> Any:
        return self._client.repeat(make)

    def limit_s(self, timeout: float | None) -> float:
        return self._client.limit_s(timeout)

    @value
    def exists(self) -> Flow[bool]:
        """Whether the node knows the job: it lives, or ended less than five minutes ago."""
        return self._exists()

    @value
    def running(self) -> Flow[bool]:
        """Whether the job lives, waiting between two runs included."""
        return self._running()

    @call
    def get(self, timeout: float | None = None) -> Flow[Return]:
        """The result, for five minutes as often as asked. JobNotFoundError; TimeoutError when late."""
        return self.result(Deadline(self.limit_s(timeout)))

    @call
    def stream(self, callback: Callback | None = None) -> Flow[int]:
        """Call back (level, text, flags) for each message to the end of the job; their number.

        Without a callback they are printed. Needs a job with `stream=True`; each message is for one reader.
        """
        return self._stream(callback or print_message)

    @each
    def messages(self) -> Flow[Message | None]:
        """As `stream`, as an iterator."""
        return self._next()

    def _exists(self) -> Flow[bool]:
        return bool((yield Request(("EXISTS", f"result:{self.id}:flag"))))

    def _running(self) -> Flow[bool]:
        return int((yield Request(("TTL", f"result:{self.id}:flag")))) == -1

    def result(self, deadline: Deadline, *, is_new: bool = False) -> Flow[Return]:
        """Wait for the result. `is_new`: just pushed, so that its flag may still be to come."""
        key = f"result:{self.id}"
        while True:
            if not is_new and not (yield from self._exists()):
                raise JobNotFoundError(
                    f"job {self.id} is not known", hint="never accepted, or ended long ago"
                )
            wait_s = deadline.slice_s()
            raw = yield Request(("BRPOPLPUSH", key, key, wait_s), wait_s)
            if raw is not None:
                return Return.decode(raw)
            if deadline.is_over:
                raise TimeoutError(f"job {self.id}: no result in time")

    def accepted(self, deadline: Deadline) -> Flow[None]:
        """Wait for the flag."""
        flag = f"result:{self.id}:flag"
        while True:
            wait_s = deadline.slice_s()
            if (yield Request(("BRPOPLPUSH", flag, flag, wait_s), wait_s)) is not None:
                return
            if deadline.is_over:
                raise Unavailable(f"job {self.id} was not accepted in time", hint="the node may be starting")

    def _stream(self, callback: Callback) -> Flow[int]:
        count = 0
        while (message := (yield from self._next())) is not None:
            callback(*message)
            count += 1
        return count

    _is_over = False

    def _next(self) -> Flow[Message | None]:
        """The next message; None after the one that ends the job, or when there is nothing and no job."""
        while not self._is_over:
            got = yield from self._wait(_SLICE_S)
            if got is None and not (yield from self._running()):
                got = yield from self._wait(_LEAST_S)  # it may have ended between the two
                self._is_over = got is None
            if got is None:
                continue
            message = decode_record(got[1]).message
            self._is_over = bool(message.flags & ENDED)
            return message
        return None

    def _wait(self, wait_s: float) -> Flow[Any]:
        return (yield Request(("BLPOP", f"stream:{self.id}", wait_s), wait_s))


class JSONResponse(Runs[M], Generic[M]):
    """A job whose result is a JSON value."""

    def __init__(self, response: Response[M]) -> None:
        self.response = response
        self.id = response.id

    def perform(self, flow: Flow[Any]) -> Any:
        return self.response.perform(flow)

    @call
    def get(self, timeout: float | None = None) -> Flow[Any]:
        """The value. ResultError unless the job succeeded, with code 406 when it is no JSON."""
        return self._get(timeout)

    def _get(self, timeout: float | None) -> Flow[Any]:
        response = self.response
        return (yield from response.result(Deadline(response.limit_s(timeout)))).json()


class BaseClient(Runs[M], Generic[M]):
    """Commands, on the node or inside a container. `timeout` (seconds) is how long results are waited for."""

    timeout: float = TIMEOUT_S

    def limit_s(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    @call
    def raw(
        self,
        command: str,
        arguments: Mapping[str, Any],
        queue: str | None = None,
        max_time: int | None = None,
        stream: bool = False,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        recurring_period: int | None = None,
        max_restart: int | None = None,
    ) -> Flow[Response[M]]:
        """Hand a command over and wait until the node has accepted it.

        `queue`: jobs of one queue run one after another. `max_time`: seconds until the node kills it.
        `recurring_period`: run again so many seconds after each end. `max_restart`: runs until one succeeds.
        """
        fields = (queue, max_time, stream, tags, id, recurring_period, max_restart)
        return self._start(command, arguments, *fields)

    def _start(
        self,
        command: str,
        arguments: Mapping[str, Any],
        queue: str | None,
        max_time: int | None,
        stream: bool,
        tags: Sequence[str] | None,
        id: str | None,
        recurring_period: int | None,
        max_restart: int | None = None,
    ) -> Flow[Response[M]]:
        wire = command_of(
            command,
            arguments,
            queue=queue,
            max_time=max_time,
            stream=stream,
            tags=tags,
            id=id,
            recurring_period=recurring_period,
            max_restart=max_restart,
        )
        return self.hand_over(wire)

    def hand_over(self, wire: dict[str, Any]) -> "Flow[Response[M]]":
        raise NotImplementedError

    def run(
        self, command: str, arguments: Mapping[str, Any], timeout: float | None = None, **fields: Any
    ) -> Flow[Return]:
        """A command and its result, whatever that is."""
        raise NotImplementedError

    def run_json(
        self, command: str, arguments: Mapping[str, Any], timeout: float | None = None, **fields: Any
    ) -> Flow[Any]:
        """A command and its decoded value: what most methods of the managers are."""
        return (yield from self.run(command, arguments, timeout, **fields)).json()

    def json_response(
        self, command: str, arguments: Mapping[str, Any], **fields: Any
    ) -> Flow[JSONResponse[M]]:
        """A command whose value may take long."""
        return JSONResponse((yield from self.hand_over(command_of(command, arguments, **fields))))

    @call
    def sync(
        self,
        command: str,
        arguments: Mapping[str, Any],
        tags: Sequence[str] | None = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Flow[Return]:
        """A command's result. ResultError unless it succeeded; TimeoutError."""
        return self._checked(self.run(command, arguments, timeout, tags=tags, id=id))

    def _checked(self, flow: Flow[Return]) -> Flow[Return]:
        return (yield from flow).checked()

    @call
    def json(
        self,
        command: str,
        arguments: Mapping[str, Any],
        tags: Sequence[str] | None = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Flow[Any]:
        """As `sync`, and its value; ResultError when that is no JSON."""
        return self.run_json(command, arguments, timeout, tags=tags, id=id)

    @call
    def ping(self) -> Flow[str]:
        """`PONG Version: …`."""
        return self.run_json("core.ping", {})

    @call
    def system(
        self,
        command: str | Sequence[str],
        dir: str = "",
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        queue: str | None = None,
        max_time: int | None = None,
        stream: bool = False,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        recurring_period: int | None = None,
    ) -> Flow[Response[M]]:
        """Start a program; one text is split into words as a shell does."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        if not words:
            raise InvalidArgument("command: expected at least a program")
        arguments = {"name": words[0], "args": words[1:], "dir": dir, "stdin": stdin, "env": env}
        fields = (queue, max_time, stream, tags, id, recurring_period)
        return self._start("core.system", arguments, *fields)

    @call
    def bash(
        self,
        script: str,
        stdin: str = "",
        queue: str | None = None,
        max_time: int | None = None,
        stream: bool = False,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        recurring_period: int | None = None,
    ) -> Flow[Response[M]]:
        """Run a shell script."""
        fields = (queue, max_time, stream, tags, id, recurring_period)
        return self._start("bash", {"script": script, "stdin": stdin}, *fields)

    @call
    def subscribe(self, job: str, id: str | None = None, follow: bool = True) -> Flow[Response[M]]:
        """The backlog and output of another job: `.stream()` it. Without `follow` the backlog only.

        Killing the subscription (`job.kill` of its id) ends it.
        """
        arguments = {"id": job, "follow": None if follow else False}
        return self.hand_over(command_of("core.subscribe", arguments, stream=True, id=id))


def command_of(
    command: str, arguments: Mapping[str, Any], *, id: str | None = None, **fields: Any
) -> dict[str, Any]:
    """The command as it travels (spec 2.3), with a fresh id unless one is given; None is left out."""
    wire = {name: field for name, field in fields.items() if field is not None and field is not False}
    given = {name: argument for name, argument in arguments.items() if argument is not None}
    return {"id": id or secrets.token_hex(16), "command": command, "arguments": given, **wire}


def encoded(wire: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(wire)
    except TypeError as error:
        raise InvalidArgument(f"{wire['command']}: arguments: {error}") from None
