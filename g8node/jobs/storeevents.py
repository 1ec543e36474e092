"""What chunk stores tell of themselves, as records of a job (async): `g8ufs.events`.

Every change of a store's state is a message of level 20 of the voice `g8ufs.events`, which `core.subscribe`
follows and the loggers keep: `{event, store, state, error, time}`, state ok, slow or down.
"""

import time
from typing import TYPE_CHECKING, Final

import msgspec

from g8node.jobs.manager import Manager
from g8node.jobs.model import Level

if TYPE_CHECKING:
    from g8node.store.health import StoreStatistics
    from g8node.store.stores import Stores

VOICE: Final = "g8ufs.events"


def connect(manager: Manager, stores: "Stores") -> None:
    """Called once, by main."""
    voice = manager.voice(VOICE, VOICE)

    def told(now: "StoreStatistics") -> None:
        error = now.error if now.state == "down" else ""
        event = {"event": "store", "store": now.name, "state": now.state, "error": error, "time": time.time()}
        voice.emit(Level.RESULT_JSON, msgspec.json.encode(event).decode())

    stores.listeners.append(told)
