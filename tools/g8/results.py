"""What comes back from a node (pure): results of jobs, and the failures that clients raise."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from g8node.errors import (
    AlreadyExists,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)

SUCCESS: Final = "SUCCESS"
LEVEL_STDOUT: Final = 1
LEVEL_JSON: Final = 20
ENDED: Final = 0x6
_FLAGS: Final = 0xFFFF
_NOT_JSON: Final = 406


class Unreachable(Unavailable, ConnectionError):
    """The node does not answer, or the connection broke."""


class JobNotFoundError(NotFound):
    """The job was never accepted, or ended more than five minutes ago."""


class ResultError(RuntimeError):
    """A job that did not end in SUCCESS; `code` is the job's (processes: 1000 + exit status, 999 killed)."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Return:
    """The result of a job (spec core0-protocol 2.4); `payload` is all of it, as it came."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self.payload = dict(payload)

    @classmethod
    def decode(cls, raw: bytes) -> "Return":
        """ResultError when it is no result."""
        try:
            return cls(msgspec.json.decode(raw, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            raise ResultError(f"the node's result makes no sense: {error}") from error

    @property
    def id(self) -> str:
        return str(self.payload["id"])

    @property
    def command(self) -> str:
        return str(self.payload.get("command") or "")

    @property
    def state(self) -> str:
        """SUCCESS, ERROR, TIMEOUT, UNKNOWN_CMD."""
        return str(self.payload.get("state") or "")

    @property
    def code(self) -> int:
        return int(self.payload.get("code") or 0)

    @property
    def data(self) -> str:
        return str(self.payload.get("data") or "")

    @property
    def level(self) -> int:
        """The format of `data`: 20 is JSON."""
        return int(self.payload.get("level") or 0)

    @property
    def starttime(self) -> float:
        """Seconds since the epoch."""
        return float(self.payload.get("starttime") or 0) / 1000

    @property
    def time(self) -> int:
        """How long it ran, in milliseconds."""
        return int(self.payload.get("time") or 0)

    @property
    def stdout(self) -> str:
        return self._stream(0)

    @property
    def stderr(self) -> str:
        return self._stream(1)

    def _stream(self, index: int) -> str:
        streams = self.payload.get("streams") or ("", "")
        return str(streams[index])

    @property
    def critical(self) -> str:
        return str(self.payload.get("critical") or "")

    @property
    def tags(self) -> list[str] | None:
        return self.payload.get("tags")

    @property
    def container(self) -> int:
        """0 on the node itself."""
        return int(self.payload.get("container") or 0)

    def checked(self) -> "Return":
        """Itself, or ResultError unless the state is SUCCESS."""
        if self.state != SUCCESS:
            raise ResultError(self.reason(), self.code)
        return self

    def json(self) -> Any:
        """The decoded data of a job that succeeded. ResultError, with 406 when it is no JSON."""
        self.checked()
        if self.level != LEVEL_JSON:
            raise ResultError(f"{self.command}: its result has level {self.level}, no JSON", _NOT_JSON)
        try:
            return msgspec.json.decode(self.data)
        except msgspec.DecodeError as error:
            raise ResultError(f"{self.command}: its result is no JSON: {error}", _NOT_JSON) from error

    def reason(self) -> str:
        """Why it failed, in one line: the node's words, else the state."""
        text = self.data
        if self.level == LEVEL_JSON:
            with contextlib.suppress(msgspec.DecodeError):
                text = str(msgspec.json.decode(self.data))
        if self.state == "UNKNOWN_CMD":
            text = text or "unknown command"
        words = text or self.critical or self.stderr.strip() or self.state
        return f"{self.command}: {words}" if self.command else words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Return) and self.payload == other.payload

    __hash__ = None  # type: ignore[assignment]  # the payload may be changed

    def __str__(self) -> str:
        parts = [f"STATE: {self.code} {self.state}"]
        for name in ("stdout", "stderr", "data"):
            if text := getattr(self, name):
                parts += [f"{name.upper()}:", text]
        return "\n".join(parts)

    def __repr__(self) -> str:
        return str(self)


class Message(NamedTuple):
    """One message of a job. `flags`: 2 ends it with success, 4 with an error."""

    level: int
    text: str
    flags: int


class Record(NamedTuple):
    """A message, who said it (0: the node, else a container), and when (ns since the epoch)."""

    core: int
    job: str
    message: Message
    epoch: int


class _Line(msgspec.Struct):
    message: str = ""
    epoch: int = 0
    meta: int = 0


class _Wire(msgspec.Struct):
    message: _Line
    core: int = 0
    command: str = ""


_records = msgspec.json.Decoder(_Wire)


def decode_record(raw: bytes) -> Record:
    """A log record (spec 5.1)."""
    wire = _records.decode(raw)
    line = wire.message
    return Record(
        wire.core, wire.command, Message(line.meta >> 16, line.message, line.meta & _FLAGS), line.epoch
    )


_REFUSALS: Final[dict[str, type[NodeError]]] = {
    "NOPERM": PermissionDenied,
    "NOAUTH": PermissionDenied,
    "WRONGPASS": PermissionDenied,
    "DUPLICATE": AlreadyExists,
    "UNAVAILABLE": Unavailable,
}


def refusal(text: str) -> NodeError | ResultError:
    """A redis error of the gate as what it means: `ERR <code> …` is the result of a direct command."""
    word, _, rest = text.partition(" ")
    if (kind := _REFUSALS.get(word)) is not None:
        return kind(rest or text)
    code, _, message = rest.partition(" ")
    if word == "ERR" and code.isdecimal() and message:
        return InvalidArgument(message) if code == "400" else ResultError(message, int(code))
    return InvalidArgument(rest if word == "ERR" and rest else text)
