"""The bundle of the node's owners that commands work on (pure)."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from g8node.config import Config
from g8node.errors import Unavailable
from g8node.node.paths import Paths
from g8node.node.power import Power

if TYPE_CHECKING:  # imported by who makes them: what `core.ping` does not need costs no boot time
    from g8node.g8ufs.mounts import Mounts
    from g8node.node.blocks import Blocks
    from g8node.node.btrfs import Btrfs
    from g8node.node.containers import Containers
    from g8node.node.disks import Disks
    from g8node.node.files import Files
    from g8node.node.firewall import Firewall
    from g8node.node.groups import Groups
    from g8node.node.inventory import Inventory
    from g8node.node.links import Links
    from g8node.node.networks import Networks
    from g8node.node.nics import Nics
    from g8node.node.profile import Profile
    from g8node.node.services import Services
    from g8node.node.stats import Stats
    from g8node.runtime.process import Reaper
    from g8node.runtime.supervise import Supervisor
    from g8node.runtime.watchdog import Watchdog


@dataclass(slots=True)
class Node:
    """One owner per resource. Made by main; containers and flists arrive when the gate already answers."""

    config: Config
    paths: Paths
    reaper: "Reaper"
    supervisor: "Supervisor"
    watchdog: "Watchdog"
    power: Power
    inventory: "Inventory"
    links: "Links" = field(init=False)
    disks: "Disks" = field(init=False)
    btrfs: "Btrfs" = field(init=False)
    firewall: "Firewall" = field(init=False)
    networks: "Networks" = field(init=False)
    nics: "Nics" = field(init=False)
    profile: "Profile" = field(init=False)
    blocks: "Blocks" = field(init=False)
    _flists: "Mounts | None" = field(default=None, init=False)
    _containers: "Containers | None" = field(default=None, init=False)
    _files: "Files | None" = field(default=None, init=False)
    _stats: "Stats | None" = field(default=None, init=False)
    _groups: "Groups | None" = field(default=None, init=False)
    _services: "Services | None" = field(default=None, init=False)

    def serve(self, services: "Services") -> None:
        """Called once, by main."""
        self._services = services

    def complete(self, flists: "Mounts", containers: "Containers", files: "Files | None" = None) -> None:
        """Called once, by main."""
        self._flists = flists
        self._containers = containers
        self._files = files

    def add_hardware(self, links: "Links", disks: "Disks", btrfs: "Btrfs", firewall: "Firewall") -> None:
        """Called once, by main, before the commands that need them are registered."""
        self.links, self.disks, self.btrfs, self.firewall = links, disks, btrfs, firewall

    def inside(self, files: "Files", links: "Links") -> "Node":
        """The node as commands of a container are to see it: its files and links instead of the node's."""
        view = copy.copy(self)
        view.complete(self.flists, self.containers, files)
        view.links = links
        return view

    def measure(self, stats: "Stats", groups: "Groups") -> None:
        """Called once, by main."""
        self._stats = stats
        self._groups = groups

    @property
    def is_complete(self) -> bool:
        return self._containers is not None

    @property
    def flists(self) -> "Mounts":
        """Unavailable while the node is starting."""
        if self._flists is None:
            raise Unavailable("flists are not ready yet", hint="the node is starting")
        return self._flists

    @property
    def containers(self) -> "Containers":
        """Unavailable while the node is starting."""
        if self._containers is None:
            raise Unavailable("containers are not ready yet", hint="the node is starting")
        return self._containers

    @property
    def files(self) -> "Files":
        """Unavailable while the node is starting."""
        if self._files is None:
            raise Unavailable("files are not ready yet", hint="the node is starting")
        return self._files

    @property
    def stats(self) -> "Stats":
        """Unavailable while the node is starting."""
        if self._stats is None:
            raise Unavailable("statistics are not ready yet", hint="the node is starting")
        return self._stats

    @property
    def groups(self) -> "Groups":
        """Unavailable while the node is starting."""
        if self._groups is None:
            raise Unavailable("control groups are not ready yet", hint="the node is starting")
        return self._groups

    @property
    def services(self) -> "Services":
        """Unavailable while the node is starting."""
        if self._services is None:
            raise Unavailable("services are not ready yet", hint="the node is starting")
        return self._services
