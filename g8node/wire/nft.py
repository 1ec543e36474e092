"""nftables as nft's JSON (pure): the node's table and the rules that the node makes; libnftables-json(5).

Everything of ours is in one table, and every rule's comment names its owner as `g8 <kind> <owner>`.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from g8node.wire.forward import Source

FAMILY: Final = "inet"
TABLE: Final = "g8node"

Rule = dict[str, Any]

_CHAINS: Final[tuple[tuple[str, str, str, int], ...]] = (
    ("raw", "filter", "prerouting", -300),
    ("input", "filter", "input", 0),
    ("forward", "filter", "forward", 0),
    ("prerouting", "nat", "prerouting", -100),
    ("output", "nat", "output", -100),
    ("postrouting", "nat", "postrouting", 100),
)
_CONTROL: Final = [1, 2, 58]  # ICMP, IGMP and ICMPv6; nft knows their names only by /etc/protocols
_DHCP_CLIENTS: Final = [68, 546]
_LOOPBACK: Final = "127.0.0.0/8"
_TRAILER: Final = re.compile(r' comment "(?P<comment>[^"]*)"$')


def base(*, closed: bool, ports: Sequence[int]) -> list[Rule]:
    """The commands that make the table anew. `closed`: what is not opened does not come in, but `ports`."""
    table = {"family": FAMILY, "name": TABLE}
    commands: list[Rule] = [
        {"add": {"table": table}},
        {"delete": {"table": table}},
        {"add": {"table": table}},
    ]
    for name, kind, hook, priority in _CHAINS:
        policy = "drop" if closed and name == "input" else "accept"
        chain = {"name": name, "type": kind, "hook": hook, "prio": priority, "policy": policy}
        commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, **chain}}})
    # Forwards of the node's own connections need route_localnet, which must not let strangers in.
    commands.append(
        add("raw", "base", [_match(_meta("iifname"), "lo", "!="), _daddr(_LOOPBACK), {"drop": None}])
    )
    accepted: list[list[Rule]] = [
        [_match({"ct": {"key": "state"}}, ["established", "related"], "in")],
        [_match(_meta("iifname"), "lo")],
        [_match(_meta("l4proto"), {"set": _CONTROL})],
        [_match({"payload": {"protocol": "udp", "field": "dport"}}, {"set": _DHCP_CLIENTS})],
        *([_dport("tcp", port)] for port in ports),
    ]
    commands += [add("input", "base", [*match, {"accept": None}]) for match in accepted]
    return commands


def add(chain: str, owner: str, expressions: Sequence[Rule]) -> Rule:
    rule = {"family": FAMILY, "table": TABLE, "chain": chain, "comment": f"g8 {owner}"}
    return {"add": {"rule": {**rule, "expr": list(expressions)}}}


def delete(chain: str, handle: int) -> Rule:
    return {"delete": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "handle": handle}}}


def open_port(port: int, interface: str, subnet: str) -> Rule:
    """Let TCP to a port of the node in."""
    where = ([_match(_meta("iifname"), interface)] if interface else []) + (
        [_saddr(subnet)] if subnet else []
    )
    return add("input", f"port {port}", [*where, _dport("tcp", port), {"accept": None}])


def accept_udp(port: int, interface: str, owner: str) -> Rule:
    """Let the packets of a tunnel in, by one link or (empty) any."""
    where = [_match(_meta("iifname"), interface)] if interface else []
    return add("input", owner, [*where, _dport("udp", port), {"accept": None}])


def forwards(source: Source, address: str, port: int, owner: str) -> list[Rule]:
    """Connections to a port of the node go to another address: from outside, and from the node itself."""
    rules = []
    for protocol in source.protocols:
        local = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
        clients = [_saddr(source.network)] if source.network else []
        to = [_dport(protocol, source.port), {"dnat": {"family": "ip", "addr": address, "port": port}}]
        link = [_match(_meta("iifname"), source.link)] if source.link else []
        rules.append(add("prerouting", owner, [local, *link, *clients, *to]))
        if not source.link:
            rules.append(add("output", owner, [local, *clients, *to]))
    return rules


def masquerade(networks: Sequence[str], link: str, owner: str) -> list[Rule]:
    """What leaves `networks` elsewhere has our address; so has what comes back into them through a forward.

    Nothing else begins a connection into them.
    """
    rules = []
    for network in networks:
        away = [_saddr(network), _match(_meta("oifname"), link, "!="), {"masquerade": None}]
        rules.append(add("postrouting", owner, away))
    forwarded = _match({"ct": {"key": "status"}}, "dnat", "in")
    for clients in (*(network for network in networks if ":" not in network), _LOOPBACK):  # forwards are IPv4
        back = [_saddr(clients), _match(_meta("oifname"), link), forwarded, {"masquerade": None}]
        rules.append(add("postrouting", owner, back))
    into = [_match(_meta("oifname"), link), _match(_meta("iifname"), link, "!=")]
    begins = _match({"ct": {"key": "state"}}, "new", "in")
    rules.append(add("forward", owner, [*into, forwarded, {"accept": None}]))
    rules.append(add("forward", owner, [*into, begins, {"drop": None}]))
    return rules


def services(link: str, owner: str) -> list[Rule]:
    """DNS and DHCP of a bridge's own server."""
    rules = []
    for protocol, ports in (("udp", [53, 67, 68]), ("tcp", [53])):
        server = _match({"payload": {"protocol": protocol, "field": "dport"}}, {"set": ports})
        rules.append(add("input", owner, [_match(_meta("iifname"), link), server, {"accept": None}]))
    return rules


def handles(answer: Any) -> list[tuple[str, int, str]]:
    """(chain, handle, comment) of each rule in nft's answer, whatever else and whoever's else is in it."""
    found = []
    for item in answer.get("nftables", ()) if isinstance(answer, dict) else ():
        row = item.get("add", item) if isinstance(item, dict) else {}
        rule = row.get("rule") if isinstance(row, dict) else None
        if isinstance(rule, dict) and isinstance(rule.get("handle"), int):
            found.append((str(rule.get("chain")), rule["handle"], str(rule.get("comment", ""))))
    return found


def texts(listing: str) -> list[tuple[str, str]]:
    """(rule, comment) of each rule of a chain in nft's own words; a rule of any shape is one."""
    found = []
    for line in listing.splitlines():
        text = line.strip()
        if not line.startswith("\t\t") or text.startswith("type ") or text in ("{", "}"):
            continue
        trailer = _TRAILER.search(text)
        comment = trailer["comment"] if trailer else ""
        found.append((text[: trailer.start()] if trailer else text, comment))
    return found


def _match(left: Rule, right: Any, op: str = "==") -> Rule:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str) -> Rule:
    return {"meta": {"key": key}}


def _dport(protocol: str, port: int) -> Rule:
    return _match({"payload": {"protocol": protocol, "field": "dport"}}, port)


def _saddr(network: str) -> Rule:
    protocol = "ip6" if ":" in network else "ip"
    return _match({"payload": {"protocol": protocol, "field": "saddr"}}, _prefix(network))


def _daddr(network: str) -> Rule:
    return _match({"payload": {"protocol": "ip", "field": "daddr"}}, _prefix(network))


def _prefix(network: str) -> Any:
    address, slash, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}} if slash else address
