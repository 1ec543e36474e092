"""`g8 bridge …` and `g8 firewall …` (blocking): bridges of a node and its open ports."""

from typing import Annotated

import typer

from g8tools.g8 import console
from g8tools.g8.frame import Node, command, group

NameArgument = Annotated[str, typer.Argument(metavar="BRIDGE", help="The bridge.")]
LinkArgument = Annotated[str, typer.Argument(metavar="LINK", help="A link of the node.")]
PortArgument = Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="A TCP port.")]


def bridges(node: Node) -> None:
    """List the bridges, whoever made them, with their ports."""
    client = node.client.bridge
    rows = [{"name": name, "links": client.nic_list(name)} for name in client.list()]
    table = [("BRIDGE", "LINKS"), *((str(row["name"]), " ".join(row["links"])) for row in rows)]
    node.show(rows, console.table(table))


def create(
    node: Node,
    name: NameArgument,
    cidr: Annotated[str, typer.Option(metavar="ADDRESS/PREFIX", help="Its IPv4 address; with it, DNS.")] = "",
    cidr6: Annotated[str, typer.Option(metavar="ADDRESS/PREFIX", help="Its IPv6 address, beside it.")] = "",
    dhcp: Annotated[str, typer.Option(metavar="START-END", help="Give leases from START to END.")] = "",
    nat: Annotated[bool, typer.Option("--nat", help="Masquerade what leaves its networks.")] = False,
    hwaddr: Annotated[str, typer.Option(metavar="MAC", help="Its hardware address.")] = "",
) -> None:
    """Make a bridge; without an address it only switches."""
    start, _, end = dhcp.partition("-")
    given = {"cidr": cidr, "cidr6": cidr6, "start": start, "end": end}
    settings = {key: value for key, value in given.items() if value}
    mode = ("dnsmasq" if dhcp else "static") if settings or nat else "none"
    node.client.bridge.create(name, hwaddr or None, mode, nat, settings)  # type: ignore[arg-type]
    node.done(name=name)


def delete(node: Node, name: NameArgument) -> None:
    """Delete a bridge with its DNS, DHCP and rules."""
    node.client.bridge.delete(name)
    node.done(name=name)


def attach(node: Node, name: NameArgument, link: LinkArgument) -> None:
    """Make a link a port of a bridge."""
    node.client.bridge.nic_add(name, link)
    node.done(name=name, link=link)


def detach(node: Node, link: LinkArgument) -> None:
    """Take a link from its bridge."""
    node.client.bridge.nic_remove(link)
    node.done(link=link)


def lease(
    node: Node,
    name: NameArgument,
    mac: Annotated[str, typer.Argument(metavar="MAC", help="Who is given it.")],
    ip: Annotated[str, typer.Argument(metavar="ADDRESS", help="What it is given.")],
) -> None:
    """Give a hardware address always the same address by DHCP."""
    node.client.bridge.add_host(name, ip, mac)
    node.done(name=name, ip=ip)


def rules(node: Node) -> None:
    """List what comes in, as nft writes it."""
    found = node.client.nft.list()
    node.show(found, "\n".join(found))


def open_port(
    node: Node,
    port: PortArgument,
    interface: Annotated[str, typer.Option(metavar="LINK", help="By this link only; eth* for many.")] = "",
    subnet: Annotated[str, typer.Option(metavar="NETWORK", help="From this IPv4 network only.")] = "",
) -> None:
    """Let TCP to a port of the node in."""
    node.client.nft.open_port(port, interface or None, subnet or None)
    node.done(port=port)


def close_port(node: Node, port: PortArgument) -> None:
    """Close a port that was opened."""
    node.client.nft.drop_port(port)
    node.done(port=port)


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    of_bridges = group(app, "bridge", "Bridges of a node.")
    command(of_bridges, "list")(bridges)
    command(of_bridges, "create")(create)
    command(of_bridges, "delete")(delete)
    command(of_bridges, "attach")(attach)
    command(of_bridges, "detach")(detach)
    command(of_bridges, "lease")(lease)
    of_ports = group(app, "firewall", "Open ports of a node.")
    command(of_ports, "list")(rules)
    command(of_ports, "open")(open_port)
    command(of_ports, "close")(close_port)
