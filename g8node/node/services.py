"""What commands see of the boot services (pure); their owner is `boot/sequencer.py`."""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

State = Literal["waiting", "starting", "running", "done", "failed", "skipped", "stopped", "dropped"]


class ServiceRow(Struct, frozen=True):
    """One service of `service.list`. `reason` says why it is not running, `ready_s` how long it took."""

    id: str
    slice: str
    state: State
    reason: str
    command: str
    after: list[str]
    protected: bool
    pid: int
    restarts: int
    ready_s: float | None


class Services(Protocol):
    """The boot services. NotFound for an id that no include folder has."""

    def rows(self) -> Sequence[ServiceRow]:
        """All services, those that were dropped included."""
        ...

    async def start(self, id: str) -> ServiceRow:
        """Start one, whatever its condition and dependencies; returns when it is ready.

        Conflict when it runs, Unavailable with the reason when it fails.
        """
        ...

    async def stop(self, id: str) -> ServiceRow:
        """Stop one for good, protected or not. Conflict when it does not run."""
        ...

    async def restart(self, id: str) -> ServiceRow:
        """Stop one if it runs, and start it."""
        ...
