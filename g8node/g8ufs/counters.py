"""What mounts and fetches have done since they began, for `g8ufs.list` and `g8ufs.stats` (pure)."""

from dataclasses import asdict, dataclass
from typing import Any, Final

STALL_S: Final = 1.0
"""A read that waits longer than this counts as a stall: a person notices it."""


@dataclass(slots=True)
class Reads:
    """Of one image. Only what the kernel's page cache did not have reaches us."""

    reads: int = 0
    read_bytes: int = 0
    hits: int = 0
    """Chunks that the cache had."""
    misses: int = 0
    """Chunks that a store was asked for."""
    stalls: int = 0
    errors: int = 0
    """Reads that ended in EIO."""

    def shown(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, other: "Reads") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(slots=True)
class Fetches:
    """Of all stores together."""

    chunks: int = 0
    stored_bytes: int = 0
    """As the stores gave them: compressed and encrypted."""
    errors: int = 0
    """Chunks that were not given, or wrong."""
    in_flight: int = 0

    def shown(self) -> dict[str, Any]:
        return asdict(self)
