"""When a container is started again, and how its health is found out (pure)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.runtime.supervise import Backoff


class Restart(Struct, frozen=True):
    """What is done when process 1 ends by itself."""

    policy: Literal["no", "on-failure", "always"] = "no"
    max_retries: Annotated[int, Meta(ge=0, le=1 << 30, description="0: no end")] = 0


class HealthCheck(Struct, frozen=True):
    """A program that is run inside at intervals; exit code 0 means healthy. Times are seconds."""

    command: (
        Annotated[str, Meta(extra={"kind": "shell line"})]
        | list[Annotated[str, Meta(pattern=r"\A[^\x00]*\Z", extra={"kind": "text"})]]
    )
    interval: Annotated[float, Meta(ge=0.1, le=86400)] = 30.0
    timeout: Annotated[float, Meta(ge=0.1, le=86400)] = 30.0
    retries: Annotated[int, Meta(ge=1, le=1000, description="failures in a row")] = 3
    start_period: Annotated[float, Meta(ge=0, le=86400, description="failures do not count yet")] = 0.0
    restart: Annotated[bool, Meta(description="start the container again when it is unhealthy")] = False


def health_command(check: HealthCheck) -> list[str]:
    """argv; a string is run by the container's shell. InvalidArgument."""
    words = ["/bin/sh", "-c", check.command] if isinstance(check.command, str) else check.command
    if not words or not words[0] or not words[-1] or any("\0" in word for word in words):
        raise InvalidArgument("health: command: expected a program and its arguments, or a line for sh")
    return words


class Health(Struct):
    """What `corex.list` shows of it."""

    status: Literal["starting", "healthy", "unhealthy"] = "starting"
    failures: int = 0
    """In a row."""
    code: int | None = None
    """Of the last check; None: it could not be run, or not in time."""


@dataclass(slots=True)
class Restarts:
    """How often a container was started again, and when the next time is."""

    wanted: Restart
    count: int = 0
    _backoff: Backoff = field(default_factory=Backoff)

    def after(self, code: int, now: float, *, forced: bool) -> float | None:
        """Seconds until the next start when process 1 has ended with `code`; None: there is none."""
        retries = self.wanted.max_retries
        again = self.wanted.policy == "always" or (self.wanted.policy == "on-failure" and code != 0)
        if not forced and (not again or (retries and self.count >= retries)):
            return None
        self.count += 1
        return self._backoff.next(now)
