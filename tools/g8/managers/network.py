"""bridge.*, nft.*, zerotier.* (pure): networks of a node."""

from collections.abc import Mapping
from typing import Any, Literal

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager

Names = list[str]


class Bridge(Manager[M]):
    """Bridges with addresses, DHCP and NAT."""

    @call
    def create(
        self,
        name: str,
        hwaddr: str | None = None,
        network: Literal["static", "dnsmasq", "none"] | None = None,
        nat: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> Flow[None]:
        """Make a bridge. `settings`: cidr, and start and end of the range with dnsmasq."""
        mode = None if network == "none" else network
        wanted = {"mode": mode, "nat": nat, "settings": settings or {}}
        return self._done("bridge.create", name=name, hwaddr=hwaddr, network=wanted)

    @call
    def list(self) -> Flow[list[str]]:
        """Their names."""
        return self._json("bridge.list")

    @call
    def delete(self, bridge: str) -> Flow[None]:
        """Delete one with all that belongs to it."""
        return self._done("bridge.delete", name=bridge)

    @call
    def add_host(self, bridge: str, ip: str, mac: str) -> Flow[None]:
        """Give a MAC address a fixed address by DHCP."""
        return self._done("bridge.host-add", bridge=bridge, ip=ip, mac=mac)

    @call
    def nic_add(self, name: str, nic: str) -> Flow[None]:
        """Attach a link."""
        return self._done("bridge.nic-add", name=name, nic=nic)

    @call
    def nic_remove(self, nic: str) -> Flow[None]:
        """Detach a link."""
        return self._done("bridge.nic-remove", nic=nic)

    @call
    def nic_list(self, name: str) -> Flow[Names]:
        """The links of a bridge."""
        return self._json("bridge.nic-list", name=name)


class Nft(Manager[M]):
    """Open ports."""

    @call
    def open_port(self, port: int, interface: str | None = None, subnet: str | None = None) -> Flow[None]:
        """Let TCP to a port in."""
        return self._done("nft.open_port", port=port, interface=interface, subnet=subnet)

    @call
    def drop_port(self, port: int, interface: str | None = None, subnet: str | None = None) -> Flow[None]:
        """Close a port again."""
        return self._done("nft.drop_port", port=port, interface=interface, subnet=subnet)

    @call
    def list(self) -> Flow[list[str]]:
        """The rules of the input chain."""
        return self._json("nft.list")

    @call
    def rule_exists(self, port: int, interface: str | None = None, subnet: str | None = None) -> Flow[bool]:
        """Whether a port is open."""
        return self._json("nft.rule_exists", port=port, interface=interface, subnet=subnet)


class ZeroTier(Manager[M]):
    """ZeroTier networks of the node."""

    @call
    def join(self, network: str) -> Flow[None]:
        """Join a network."""
        return self._done("zerotier.join", network=network)

    @call
    def leave(self, network: str) -> Flow[None]:
        """Leave a network."""
        return self._done("zerotier.leave", network=network)

    @call
    def list(self) -> Flow[list[dict[str, Any]]]:
        """Joined networks."""
        return self._json("zerotier.list")

    @call
    def info(self) -> Flow[dict[str, Any]]:
        """State of its daemon."""
        return self._json("zerotier.info")
