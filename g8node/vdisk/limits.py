"""Limits of a vdisk's rate, and what it has done (pure)."""

import time
from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.wire import nbd

Rate = Annotated[int, Meta(ge=0, le=1 << 50)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Quality of service of one vdisk, over all its connections; 0 means no limit."""

    iops: Annotated[Rate, Meta(description="Requests a second.")] = 0
    bytes_s: Annotated[Rate, Meta(description="Bytes a second, read and written.")] = 0
    burst_s: Annotated[
        float, Meta(ge=0.001, le=3600, description="Seconds of unused rate that may be used at once.")
    ] = 1.0


class Throttle:
    """Token buckets for requests and bytes. A request may begin while neither is in debt."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = [
            _Bucket(rate, limits.burst_s, clock()) for rate in (limits.iops, limits.bytes_s) if rate
        ]
        self.limited = bool(self._buckets)
        self._of_bytes = [False] * bool(limits.iops) + [True] * bool(limits.bytes_s)

    def pause_s(self, length: int) -> float:
        """0, and the request is accounted; or the seconds until it can be."""
        if not self._buckets:
            return 0.0
        now = self._clock()
        wait_s = max(bucket.debt_s(now) for bucket in self._buckets)
        if wait_s <= 0:
            for bucket, of_bytes in zip(self._buckets, self._of_bytes, strict=True):
                bucket.take(length if of_bytes else 1)
        return wait_s


class _Bucket:
    def __init__(self, rate: int, burst_s: float, now: float) -> None:
        self._rate = rate
        self._depth = max(1.0, rate * burst_s)
        self._level = self._depth
        self._at = now

    def debt_s(self, now: float) -> float:
        self._level = min(self._depth, self._level + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._level > 0 else max(-self._level / self._rate, 0.001)

    def take(self, amount: int) -> None:
        self._level -= amount


_READ: Final = nbd.CMD_READ
_WRITE: Final = nbd.CMD_WRITE


class Counters:
    """Requests and bytes since the vdisk was opened."""

    def __init__(self) -> None:
        self.ops = [0] * 8
        self.bytes = [0] * 8

    def count(self, kind: int, ops: int, length: int) -> None:
        self.ops[kind] += ops
        self.bytes[kind] += length

    @property
    def changes(self) -> int:
        """Requests that may have changed what is stored."""
        return self.ops[_WRITE] + self.ops[nbd.CMD_TRIM] + self.ops[nbd.CMD_WRITE_ZEROES]

    def table(self) -> dict[str, int]:
        """By name, as `vdisk.info` shows it."""
        names = {
            _READ: "read",
            _WRITE: "write",
            nbd.CMD_FLUSH: "flush",
            nbd.CMD_TRIM: "trim",
            nbd.CMD_WRITE_ZEROES: "zero",
        }
        rows = {f"{name}_ops": self.ops[kind] for kind, name in names.items()}
        return rows | {
            f"{names[kind]}_bytes": self.bytes[kind]
            for kind in (_READ, _WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES)
        }
