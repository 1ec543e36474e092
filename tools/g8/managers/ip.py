"""ip.* (pure): links, addresses, routes of a node or a privileged container."""

from collections.abc import Sequence
from typing import Any

from g8tools.g8.base import BaseClient
from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager


class IpBridge(Manager[M]):
    """Plain kernel bridges."""

    @call
    def add(self, name: str, hwaddr: str | None = None) -> Flow[None]:
        """Make a bridge; it is not brought up."""
        return self._done("ip.bridge.add", name=name, hwaddr=hwaddr)

    @call
    def delete(self, name: str) -> Flow[None]:
        """Delete a bridge."""
        return self._done("ip.bridge.del", name=name)

    @call
    def addif(self, name: str, inf: str) -> Flow[None]:
        """Attach a link to a bridge."""
        return self._done("ip.bridge.addif", name=name, inf=inf)

    @call
    def delif(self, name: str, inf: str) -> Flow[None]:
        """Detach a link from a bridge."""
        return self._done("ip.bridge.delif", name=name, inf=inf)


class IpLink(Manager[M]):
    """Network links."""

    @call
    def up(self, link: str) -> Flow[None]:
        """Bring a link up."""
        return self._done("ip.link.up", name=link)

    @call
    def down(self, link: str) -> Flow[None]:
        """Take a link down."""
        return self._done("ip.link.down", name=link)

    @call
    def name(self, link: str, name: str) -> Flow[None]:
        """Rename a link, which must be down."""
        return self._done("ip.link.name", name=link, new=name)

    @call
    def mtu(self, link: str, mtu: int) -> Flow[None]:
        """Set the largest packet of a link."""
        return self._done("ip.link.mtu", name=link, mtu=mtu)

    @call
    def list(self) -> Flow[list[dict[str, Any]]]:
        """All links: name, type, hwaddr, master, up, mtu."""
        return self._json("ip.link.list")


class IpAddr(Manager[M]):
    """Addresses of links."""

    @call
    def add(self, link: str, ip: str) -> Flow[None]:
        """Add an address, as 10.0.0.1/24."""
        return self._done("ip.addr.add", name=link, ip=ip)

    @call
    def delete(self, link: str, ip: str) -> Flow[None]:
        """Remove an address."""
        return self._done("ip.addr.del", name=link, ip=ip)

    @call
    def list(self, link: str) -> Flow[list[str]]:
        """The addresses of a link."""
        return self._json("ip.addr.list", name=link)


class IpRoute(Manager[M]):
    """Routes."""

    @call
    def add(self, dev: str, dst: str, gw: str | None = None) -> Flow[None]:
        """Add a route; an empty `dst` is the default route."""
        return self._done("ip.route.add", dev=dev, dst=dst, gw=gw)

    @call
    def delete(self, dev: str, dst: str, gw: str | None = None) -> Flow[None]:
        """Delete the one route that matches."""
        return self._done("ip.route.del", dev=dev, dst=dst, gw=gw)

    @call
    def list(self) -> Flow[list[dict[str, str]]]:
        """All routes: dev, dst, gw."""
        return self._json("ip.route.list")


class IpBond(Manager[M]):
    """Bonds of links."""

    @call
    def add(self, bond: str, interfaces: Sequence[str], mtu: int = 1500) -> Flow[None]:
        """Make a bond of links."""
        return self._done("ip.bond.add", bond=bond, interfaces=interfaces, mtu=mtu)

    @call
    def delete(self, bond: str) -> Flow[None]:
        """Delete a bond."""
        return self._done("ip.bond.del", bond=bond)

    @call
    def list(self) -> Flow[dict[str, Any]]:
        """What the kernel says of each bond."""
        return self._json("ip.bond.list")


class Ip(Manager[M]):
    """`bridge`, `link`, `addr`, `route`, `bond`."""

    def __init__(self, client: BaseClient[M]) -> None:
        super().__init__(client)
        self.bridge: IpBridge[M] = IpBridge(client)
        self.link: IpLink[M] = IpLink(client)
        self.addr: IpAddr[M] = IpAddr(client)
        self.route: IpRoute[M] = IpRoute(client)
        self.bond: IpBond[M] = IpBond(client)
