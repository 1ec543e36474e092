"""`g8 container nic-add, nic-remove, forward, unforward` (blocking), and nics written in one word."""

from typing import Annotated, Any, Final

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import complete
from g8tools.g8.frame import Node, command, texts_of

NIC: Final = "TYPE[:ID][,KEY[=VALUE]…]"
NIC_HELP: Final = "A link, as default, bridge:br0,dhcp or bridge:br0,cidr=10.0.0.2/24,gateway=10.0.0.1."
_OWN: Final = ("name", "hwaddr", "master")
_RATES: Final = ("send_bits_s", "receive_bits_s")
_ADDRESSES: Final = ("cidr", "gateway", "cidr6", "gateway6")

ContainerArgument = Annotated[
    str, typer.Argument(metavar="ID|NAME", help="The container.", autocompletion=complete.containers)
]


def parse_nic(text: str) -> dict[str, Any]:
    """A nic of corex.create. InvalidArgument names the word that makes no sense."""
    head, *words = text.split(",")
    kind, _, id = head.partition(":")
    nic: dict[str, Any] = {"type": kind, **({"id": id} if id else {})}
    config: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key in _OWN and equals:
            nic[key] = value
        elif key in _ADDRESSES and equals:
            config[key] = value
        elif key in _RATES and value.isdecimal():
            nic.setdefault("rate", {})[key] = int(value)
        elif key == "dns" and equals:
            config.setdefault("dns", []).append(value)
        elif word == "dhcp":
            config["dhcp"] = True
        elif word == "monitor":
            nic["monitor"] = True
        else:
            known = ", ".join((*_OWN, *_ADDRESSES, *_RATES, "dns"))
            raise InvalidArgument(f"nic {text}: {word}: expected dhcp, monitor, or KEY=VALUE of {known}")
    return nic | ({"config": config} if config else {})


def ports_of(words: list[str] | None) -> dict[str, int]:
    """SOURCE=PORT words."""
    try:
        return {source: int(target) for source, target in texts_of("port", words).items()}
    except ValueError as error:
        raise InvalidArgument(f"port {' '.join(words or ())}: expected SOURCE=PORT, as 8080=80") from error


def links_of(arguments: dict[str, Any]) -> list[tuple[str, str]]:
    """The nics and forwards that corex.get tells, as lines of `g8 container inspect`."""
    rows = []
    for index, nic in enumerate(arguments.pop("nics", None) or ()):
        name = nic.get("name") or f"eth{index}"
        words = [nic["type"], nic.get("id") or "", *nic.get("addresses", ()), nic.get("state", "")]
        rows.append((f"nic {index} {name}", " ".join(word for word in words if word)))
    rows += [
        (f"port {source}", str(target)) for source, target in (arguments.pop("port", None) or {}).items()
    ]
    return rows


def nic_add(
    node: Node, container: ContainerArgument, nic: Annotated[str, typer.Argument(metavar=NIC, help=NIC_HELP)]
) -> None:
    """Give a running container one more link."""
    id = node.container_id(container)
    node.client.container.nic_add(id, parse_nic(nic))
    node.done(id=id)


def nic_remove(
    node: Node,
    container: ContainerArgument,
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Its place, as inspect shows it.")],
) -> None:
    """Take a link away."""
    id = node.container_id(container)
    node.client.container.nic_remove(id, index)
    node.done(id=id)


def forward(
    node: Node,
    container: ContainerArgument,
    port: Annotated[list[str], typer.Argument(metavar="SOURCE=PORT…", help="As 8080=80 or eth0:53|udp=53.")],
) -> None:
    """Forward ports of the node to a running container."""
    id = node.container_id(container)
    for source, target in ports_of(port).items():
        node.client.container.add_portforward(id, source, target)
    node.done(id=id)


def unforward(
    node: Node,
    container: ContainerArgument,
    source: Annotated[list[str], typer.Argument(metavar="SOURCE…", help="As it was given.")],
) -> None:
    """End forwards."""
    id = node.container_id(container)
    for each in source:
        node.client.container.remove_portforward(id, each, 1)
    node.done(id=id)


def register(containers: typer.Typer) -> None:
    """Put these commands into `g8 container`."""
    command(containers, "nic-add")(nic_add)
    command(containers, "nic-remove")(nic_remove)
    command(containers, "forward")(forward)
    command(containers, "unforward")(unforward)
