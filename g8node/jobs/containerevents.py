"""What containers tell of themselves, as records of jobs (async): `corex.events`, and in the result.

Everything is a message of level 20 of the voice `corex.events`, which `core.subscribe` follows and the
loggers keep. Whoever waits for a container's own job learns from its result that memory ran out (`critical`).
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from g8node.jobs.manager import Manager
from g8node.jobs.model import Level

if TYPE_CHECKING:
    from g8node.node.container import Container
    from g8node.node.containers import Containers

VOICE: Final = "corex.events"


def connect(manager: Manager, containers: "Containers") -> None:
    """Called once, by main."""
    voice = manager.voice(VOICE, VOICE)

    def told(container: "Container", event: dict[str, Any]) -> None:
        voice.emit(Level.RESULT_JSON, msgspec.json.encode(event).decode())
        if event["event"] == "oom" and (job := manager.find(f"core-{container.id}")) is not None:
            killed, limit = event["detail"]["killed"], container.spec.limits
            most = f", the limit is {limit.memory} bytes" if limit is not None and limit.memory else ""
            job.emit(Level.CRITICAL, f"out of memory: {killed} of its processes killed{most}")

    containers.listeners.append(told)
