"""What a client of the gate may do (pure): the allow-list of design section 6, and the brake on guessing."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from g8node.errors import InvalidArgument, PermissionDenied
from g8node.jobs.model import Caller, Role

KEY_KINDS: Final = ("result", "stream", "logger", "statistics")


@dataclass(frozen=True, slots=True)
class Rule:
    """An allowed redis command: the name it runs under, its arity, and which arguments are keys."""

    name: str
    least: int
    most: int
    keys: Callable[[list[bytes]], list[bytes]]
    blocking: bool = False


def _first(args: list[bytes]) -> list[bytes]:
    return args[:1]


def _all(args: list[bytes]) -> list[bytes]:
    return args


def _but_last(args: list[bytes]) -> list[bytes]:
    return args[:-1]


def _same_two(args: list[bytes]) -> list[bytes]:
    if args[0] != args[1]:
        raise PermissionDenied("source and destination must be the same list")
    return args[:1]


RULES: Final = {
    "BLPOP": Rule("BLPOP", 2, 64, _but_last, blocking=True),
    "BRPOPLPUSH": Rule("BRPOPLPUSH", 3, 3, _same_two, blocking=True),
    "RPOPLPUSH": Rule("RPOPLPUSH", 2, 2, _same_two),
    "LRANGE": Rule("LRANGE", 3, 3, _first),
    "LLEN": Rule("LLEN", 1, 1, _first),
    "EXISTS": Rule("EXISTS", 1, 64, _all),
    "TTL": Rule("TTL", 1, 1, _first),
    # The original proxy's names (spec core0-protocol 1.7).
    "LKEYEXISTS": Rule("EXISTS", 1, 1, _first),
    "LTTL": Rule("TTL", 1, 1, _first),
}

Owner = Callable[[str], Caller | None]
"""Who sent the job of that id; None when nobody knows."""


def may_see(viewer: Caller, owner: Caller | None) -> bool:
    """Whether a job of `owner` is there for `viewer`: admins see all, everybody his own.

    Operators also see jobs of operators and readers, not those of admins and of the node itself.
    """
    if viewer.role == "admin":
        return True
    if owner is None:
        return False
    return viewer.name == owner.name or (
        viewer.role == "operator" and Role.named(owner.role) <= Role.OPERATOR
    )


def check(rule: Rule, args: list[bytes], caller: Caller, owner: Owner) -> list[str]:
    """The keys of an allowed call; PermissionDenied names what is not, InvalidArgument the arity."""
    if not rule.least <= len(args) <= rule.most:
        raise InvalidArgument(f"wrong number of arguments for '{rule.name.lower()}' command")
    keys = [key.decode("utf-8", "surrogateescape") for key in rule.keys(args)]
    for key in keys:
        _check_key(key, caller, owner)
    return keys


def _check_key(key: str, caller: Caller, owner: Owner) -> None:
    kind, colon, name = key.partition(":")
    if not colon or kind not in KEY_KINDS:
        raise PermissionDenied(f"no permission to access key {key[:80]!r}")
    if caller.role == "admin" or kind == "statistics":
        return
    # A logger's list holds what every job said, those of admins too.
    if kind == "logger" or not may_see(caller, owner(_job_id(kind, name))):
        raise PermissionDenied(f"no permission to see {key[:80]!r}")


def _job_id(kind: str, name: str) -> str:
    return name.removesuffix(":flag") if kind == "result" else name


def check_role(caller: Caller, needed: Role, command: str) -> None:
    """PermissionDenied when the command needs more than the caller is."""
    if Role.named(caller.role) < needed:
        raise PermissionDenied(f"{command} needs role {needed.name.lower()}, {caller.name} is {caller.role}")


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0
    next_slot: float = 0.0


@dataclass(slots=True)
class Brake:
    """Slows down guessing per address: after FREE failures, attempts are looked at one a second.

    The wait comes before the check, so that a right guess is as slow as a wrong one.
    """

    free: int = 5
    spacing_s: float = 1.0
    patience_s: float = 5.0
    memory_s: float = 60.0
    addresses_max: int = 4096
    _failures: OrderedDict[str, _Failures] = field(default_factory=OrderedDict)

    def delay(self, address: str, now: float) -> float | None:
        """Seconds to wait before the attempt is looked at; None: refuse it, too many are waiting."""
        seen = self._failures.get(address)
        if seen is None or seen.count < self.free:
            return 0.0
        if now - seen.last > self.memory_s:
            del self._failures[address]
            return 0.0
        slot = max(now, seen.next_slot)
        if slot - now > self.patience_s:
            return None
        seen.next_slot = slot + self.spacing_s
        return slot - now

    def failed(self, address: str, now: float) -> None:
        seen = self._failures.setdefault(address, _Failures())
        seen.count += 1
        seen.last = now
        self._failures.move_to_end(address)
        if len(self._failures) > self.addresses_max:
            self._failures.popitem(last=False)
