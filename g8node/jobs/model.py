"""Commands, results and log records as they travel (pure): spec core0-protocol 2.3, 2.4, 2.6."""

import re
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from g8node import config
from g8node.errors import InvalidArgument
from g8node.jobs import discreet

State = Literal["SUCCESS", "ERROR", "TIMEOUT", "UNKNOWN_CMD", "KILLED", "DUPILICATE_ID"]
RoleName = config.RoleName

# One way only to match a string, else a megabyte of capitals takes hours.
_UPPER_KEY = re.compile(rb'"[^"\\A-Z]*[A-Z][^"\\]*"\s*:')
_FLAG_SUFFIX = ":flag"
_ID_MAX = 4096  # ids of finished jobs are remembered by the thousand


class Level(IntEnum):
    """The levels with a meaning of their own; other numbers pass through unchanged."""

    STDOUT = 1
    STDERR = 2
    PUBLIC = 3
    OPERATOR = 4
    LOG = 5
    STRUCTURED = 6
    WARNING = 7
    OPS_ERROR = 8
    CRITICAL = 9
    STATISTIC = 10
    DEBUG = 11
    RESULT_JSON = 20
    RESULT_YAML = 21
    RESULT_TOML = 22
    RESULT_HRD = 23
    RESULT_JOB = 30


RESULT_LEVELS = frozenset({20, 21, 22, 23, 30})


class Flag(IntFlag):
    """Low bits of a record's meta."""

    STREAM = 1
    SUCCESS = 2
    ERROR = 4


END = Flag.SUCCESS | Flag.ERROR


class Role(IntEnum):
    """What a caller may do; a command names the least role it needs."""

    READER = 0
    OPERATOR = 1
    ADMIN = 2

    @classmethod
    def named(cls, name: RoleName) -> "Role":
        return cls[name.upper()]


class Caller(Struct, frozen=True, omit_defaults=True):
    """Who sent a command through the gate. The raw socket and the node itself are `local`."""

    name: str = "local"
    role: RoleName = "admin"


LOCAL = Caller()


class Command(Struct, frozen=True, omit_defaults=True):
    """One command, defaults filled in. `arguments` is undecoded JSON: the command's own struct decodes it."""

    id: str
    command: str
    arguments: Raw = Raw(b"{}")
    queue: str = ""
    max_time: int = 0
    max_restart: int = 0
    recurring_period: int = 0
    stream: bool = False
    tags: list[str] | None = None
    stats_interval: int = 0
    log_levels: list[int] | None = None
    caller: Caller | None = None

    @classmethod
    def make(
        cls, id: str, command: str, arguments: Mapping[str, Any] | None = None, **fields: Any
    ) -> "Command":
        """A command from the inside, e.g. a boot service: arguments as plain values."""
        return cls(id=id, command=command, arguments=Raw(msgspec.json.encode(arguments or {})), **fields)

    def listed(self) -> dict[str, Any]:
        """The `cmd` of job.list: six keys always, the others only when they are not zero (spec 4.1).

        Keys and passwords are not shown.
        """
        shown: dict[str, Any] = {
            "id": self.id,
            "command": self.command,
            "arguments": discreet.arguments(self.arguments),
            "queue": self.queue,
            "stream": self.stream,
            "tags": self.tags,
        }
        for name in ("max_time", "max_restart", "recurring_period", "stats_interval", "log_levels", "caller"):
            value = getattr(self, name)
            if value and value != LOCAL:
                shown[name] = value
        return shown


class _Wire(Struct):
    """A command as clients write it: null equals absent.

    `Raw | None` would accept nothing but null, so that the arguments are Raw alone and may be `null`.
    """

    id: str | None = None
    command: str | None = None
    arguments: Raw = Raw(b"null")
    queue: str | None = None
    max_time: int | None = None
    max_restart: int | None = None
    recurring_period: int | None = None
    stream: bool | None = None
    tags: list[str] | None = None
    stats_interval: int | None = None
    log_levels: list[int] | None = None
    caller: Caller | None = None


_wire = msgspec.json.Decoder(_Wire)
_NO_ARGUMENTS = Raw(b"{}")


def decode_command(data: bytes | Raw, *, needs_id: bool = True) -> Command:
    """The command in data. InvalidArgument names the field that is wrong; with `needs_id` a missing id is."""
    try:
        wire = _wire.decode(data)
        if _UPPER_KEY.search(data):
            wire = msgspec.convert(_folded(data), _Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"command is no valid JSON: {error}") from error
    if not wire.id and needs_id:
        raise InvalidArgument("command without id: expected a non-empty string")
    check_id(wire.id or "")
    arguments = wire.arguments
    return Command(
        wire.id or "",
        wire.command or "",
        _NO_ARGUMENTS if bytes(arguments) == b"null" else arguments.copy(),
        wire.queue or "",
        max(wire.max_time or 0, 0),
        max(wire.max_restart or 0, 0),
        max(wire.recurring_period or 0, 0),
        bool(wire.stream),
        wire.tags,
        wire.stats_interval or 0,
        wire.log_levels,
        wire.caller,
    )


def check_id(id: str) -> None:
    """Refuse an id that is no name, or whose result would have the key of another job's flag."""
    if len(id) > _ID_MAX:
        raise InvalidArgument(f"id: expected at most {_ID_MAX} characters, got {len(id)}")
    if id.endswith(_FLAG_SUFFIX):
        raise InvalidArgument(f"id: expected one that does not end in {_FLAG_SUFFIX!r}")


def _folded(data: bytes) -> dict[str, Any]:
    """The command's own keys in lower case (the original matches them so); arguments stay as they are."""
    fields = msgspec.json.decode(data, type=dict[str, Raw])
    return {
        key.lower(): value if key.lower() == "arguments" else _plain(value) for key, value in fields.items()
    }


def _plain(value: Raw) -> Any:
    return msgspec.json.decode(value)


class Result(Struct, frozen=True):
    """What is published at the end of a job (spec 2.4)."""

    id: str
    command: str
    state: State
    code: int = 0
    data: str = ""
    level: int = 0
    starttime: int = 0
    time: int = 0
    tags: list[str] | None = None
    container: int = 0
    streams: tuple[str, str] | UnsetType = UNSET
    critical: str | UnsetType = UNSET
    signal: int | UnsetType = UNSET
    """What killed the process (code 999); not in the original."""

    @property
    def ok(self) -> bool:
        return self.state == "SUCCESS"

    @property
    def stdout(self) -> str:
        return self.streams[0] if self.streams is not UNSET else ""

    @property
    def stderr(self) -> str:
        return self.streams[1] if self.streams is not UNSET else ""


class Message(Struct, frozen=True, array_like=False):
    """`epoch` in ns; `meta` = level << 16 | flags."""

    message: str
    epoch: int
    meta: int

    @property
    def level(self) -> int:
        return self.meta >> 16

    @property
    def ended(self) -> bool:
        return bool(self.meta & END)


class Record(Struct, frozen=True):
    """One log record of the redis pipelines (spec 5.1); `command` is the job's id."""

    core: int
    command: str
    message: Message
