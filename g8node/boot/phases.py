"""Boot as a table: named phases with deadlines, run in order, each announced when it is done (async)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from g8node.errors import DeadlineExceeded
from g8node.runtime import logs

log = logs.get("boot")


@dataclass(frozen=True, slots=True)
class Phase:
    """One step. A phase that is not `required` only warns when it fails or is late."""

    name: str
    run: Callable[[], Awaitable[None]]
    deadline_s: float = 120.0  # what is late for slowness alone would be late again after a reboot
    required: bool = True


def _ignore(title: str) -> None: ...


async def run_phases(phases: Sequence[Phase], *, begins: Callable[[str], None] = _ignore) -> None:
    """Run them in order. Raises what a required phase raised, DeadlineExceeded when it was late.

    `begins` hears which one is next.
    """
    for number, phase in enumerate(phases, 1):
        title = f"phase {phase.name} ({number}/{len(phases)})"
        begins(title)
        began = time.monotonic()
        try:
            await asyncio.wait_for(phase.run(), phase.deadline_s)
        except Exception as error:
            failure = (
                DeadlineExceeded(f"{phase.name}: not done within {phase.deadline_s:g} s")
                if isinstance(error, TimeoutError)
                else error
            )
            if phase.required:
                raise failure from error
            log.warning(f"{title}: failed, going on", reason=str(failure))
        else:
            log.info(f"{title}: done, {time.monotonic() - began:.2f}s")
