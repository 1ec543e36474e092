"""What `core.ping` does not need, in one import: a third of all code, seconds of a boot (pure).

Only main imports it, when the gate listens.
"""

from importlib import import_module
from types import ModuleType
from typing import Final

from g8node.boot import containerservices, extensions, screen, sequencer, services
from g8node.g8ufs import mounts
from g8node.jobs import containerevents, local, servers, storeevents
from g8node.jobs.commands import corex
from g8node.linux import textfiles
from g8node.node import (
    blocks,
    btrfs,
    cachedisk,
    claim,
    containers,
    disks,
    files,
    firewall,
    links,
    networks,
    nics,
    profile,
)

__all__ = [
    "blocks",
    "btrfs",
    "cachedisk",
    "claim",
    "commands",
    "containerevents",
    "containers",
    "containerservices",
    "corex",
    "disks",
    "extensions",
    "files",
    "firewall",
    "links",
    "local",
    "mounts",
    "networks",
    "nics",
    "profile",
    "screen",
    "sequencer",
    "servers",
    "services",
    "storeevents",
    "textfiles",
]


_COMMANDS: Final = (
    "bridge",
    "btrfs",
    "clock",
    "config",
    "corex",
    "corex_backup",
    "corex_exec",
    "corex_nics",
    "disk",
    "filesystem",
    "g8ufs",
    "hardware",
    "ip",
    "nft",
    "pprof",
    "rtinfo",
    "service",
    "vdisk",
    "volume",
    "web",
    "zerotier",
)


def commands() -> tuple[ModuleType, ...]:
    """The command modules beside main's `EARLY` and those of the statistics."""
    return tuple(import_module(f"g8node.jobs.commands.{name}") for name in _COMMANDS)
