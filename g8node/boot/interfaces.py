"""network.toml as values (pure); spec core0-protocol 1.6.

Nothing here raises on bad input: what is wrong with one entry drops that entry and becomes a problem, a line
that names file and key, since a node whose network is half right can still be reached and mended. A file that
is no TOML at all counts as `auto = true`. Keys match without case and underscores.
"""

import ipaddress
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument

LOOPBACK: Final = "lo"
_COUNT_MAX: Final = 256

Protocol = Literal["none", "dhcp", "static"]
Name = Annotated[str, Meta(pattern=r"\A(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15}\Z")]


class Network(Struct, frozen=True):
    """`[network]`."""

    auto: bool = True


class Interface(Struct, frozen=True):
    """`[interface.<link>]`."""

    protocol: Protocol


class Static(Struct, frozen=True):
    """`[static.<link>]`; `dns` is ours."""

    ip: str
    gateway: str = ""
    dns: tuple[str, ...] = ()


class Tap(Struct, frozen=True):
    """`[tap.<link>]`: a link that is made first."""

    up: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """How one link is to be configured; `static` is given when that is its protocol."""

    name: str
    protocol: Protocol
    static: Static | None = None


@dataclass(slots=True)
class Plan:
    """What the file says."""

    auto: bool = True
    links: dict[str, Link] = field(default_factory=dict)
    taps: dict[str, bool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def chosen(self, wired: Sequence[str], noautonic: Collection[str]) -> list[Link]:
        """The links to configure: those of the file and, with `auto`, every wired one that is not in it."""
        named = [link for link in self.links.values() if link.name != LOOPBACK]
        others = [Link(name, "dhcp") for name in wired if self.auto and name not in self.links]
        return [link for link in (*named, *others) if link.name not in noautonic]


def load(text: str, file: str) -> Plan:
    """The plan that the file's text makes."""
    plan = Plan()
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        plan.problems.append(f"{file}: {error or 'nested too deep'}, file dropped")
        return plan
    sections = {key.lower(): value for key, value in tree.items()}
    for unknown in sections.keys() - {"network", "interface", "static", "tap"}:
        plan.problems.append(f"{file}: {unknown}: unknown key, dropped")
    network = _typed(plan, f"{file}: network", sections.get("network", {}), Network)
    plan.auto = network.auto if network is not None else True
    statics = _entries(plan, file, "static", sections, Static)
    for name, tap in _entries(plan, file, "tap", sections, Tap).items():
        plan.taps[name] = tap.up
    for name, interface in _entries(plan, file, "interface", sections, Interface).items():
        if interface.protocol != "static":
            plan.links[name] = Link(name, interface.protocol)
        elif name in statics:
            _add_static(plan, file, name, statics[name])
        else:
            plan.problems.append(f"{file}: interface.{name}: there is no static.{name}, dropped")
    return plan


def _add_static(plan: Plan, file: str, name: str, static: Static) -> None:
    try:
        plan.links[name] = Link(name, "static", _checked(static))
    except InvalidArgument as error:
        plan.problems.append(f"{file}: static.{name}.{error}, dropped")


def _checked(static: Static) -> Static:
    """With addresses in their usual form. InvalidArgument begins with the key."""
    try:
        address = ipaddress.ip_interface(static.ip)
    except ValueError as error:
        raise InvalidArgument(f"ip: expected an address with its prefix, got {static.ip!r}") from error
    if "/" not in static.ip:
        raise InvalidArgument(f"ip: {static.ip!r} has no prefix length")
    for key, values in (("gateway", [static.gateway] if static.gateway else []), ("dns", static.dns)):
        for value in values:
            try:
                other = ipaddress.ip_address(value)
            except ValueError as error:
                raise InvalidArgument(f"{key}: expected an address, got {value!r}") from error
            if key == "gateway" and other.version != address.version:
                raise InvalidArgument(f"gateway: {value} is of another family than {static.ip}")
    return Static(str(address), static.gateway, static.dns)


def _entries(plan: Plan, file: str, section: str, sections: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The entries of a section that are right."""
    table = sections.get(section, {})
    if not isinstance(table, dict):
        plan.problems.append(f"{file}: {section}: expected a table, dropped")
        return {}
    found: dict[str, Any] = {}
    for name, entry in table.items():
        where = f"{file}: {section}.{name}"
        if len(found) >= _COUNT_MAX:
            plan.problems.append(f"{where}: there are {_COUNT_MAX} already, dropped")
        elif not _is_name(name):
            plan.problems.append(f"{where}: no name of a link, dropped")
        elif (typed := _typed(plan, where, entry, kind)) is not None:
            found[name] = typed
    return found


def _is_name(name: str) -> bool:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        return False
    return True


def _typed(plan: Plan, where: str, entry: Any, kind: Any) -> Any:
    """The entry as `kind`, or None with a problem; an unknown key is a problem only."""
    if not isinstance(entry, dict):
        plan.problems.append(f"{where}: expected a table, dropped")
        return None
    names = {each.name: each.name for each in msgspec.structs.fields(kind)}
    known: dict[str, Any] = {}
    for key, value in entry.items():
        if (name := names.get(key.replace("_", "").lower())) is None:
            plan.problems.append(f"{where}.{key}: unknown key, ignored")
        else:
            known[name] = value
    try:
        return msgspec.convert(known, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        plan.problems.append(f"{where}: {error}, dropped")
        return None
