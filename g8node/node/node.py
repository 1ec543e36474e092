"""The frozen bundle of the node's owners that commands work on (pure)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from g8node.config import Config
from g8node.node.paths import Paths
from g8node.node.power import Power

if TYPE_CHECKING:  # imported by who makes them: a command that needs no containers costs no import of them
    from g8node.g8ufs.mounts import Mounts
    from g8node.node.containers import Containers
    from g8node.node.inventory import Inventory
    from g8node.runtime.process import Reaper
    from g8node.runtime.supervise import Supervisor
    from g8node.runtime.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Node:
    """One owner per resource. Made once, by main."""

    config: Config
    paths: Paths
    reaper: "Reaper"
    supervisor: "Supervisor"
    watchdog: "Watchdog"
    power: Power
    inventory: "Inventory"
    flists: "Mounts"
    containers: "Containers"
