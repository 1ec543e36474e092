"""`g8 volume …`, and `--volume` of `g8 container create` (blocking)."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import complete, console
from g8tools.g8.frame import Node, command, group

VOLUME: Final = "NAME=PATH[,size=SIZE][,ro]"
_MAKE_S: Final = 120.0

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The volume.", autocompletion=complete.volumes)
]


def volumes_of(texts: Sequence[str] | None) -> dict[str, Any]:
    """Each `--volume` as in `volumes` of corex.create. InvalidArgument."""
    volumes: dict[str, Any] = {}
    for text in texts or ():
        place, *options = text.split(",")
        name, _, path = place.partition("=")
        if not (name and path) or path in volumes:
            raise InvalidArgument(f"--volume {text}: expected {VOLUME}, each PATH once")
        volumes[path] = {"name": name, **_options(text, options)}
    return volumes


def _options(text: str, options: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if option == "ro":
            given["readonly"] = True
        elif key == "size" and value:
            given["size"] = console.size_of(value, "--volume")
        else:
            raise InvalidArgument(f"--volume {text}: expected size=SIZE or ro, got {option!r}")
    return given


def create(
    node: Node,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The volume.")],
    size: Annotated[str, typer.Option(metavar="SIZE", help="BYTES, as 512M, which are reserved.")] = "",
) -> None:
    """Make an empty volume; without a size it may fill the node's disk."""
    size_bytes = console.size_of(size, "--size") if size else None
    made = node.patient(_MAKE_S).volume.create(name, size_bytes)
    node.show(made, name)


def volumes(node: Node) -> None:
    """List the volumes and the containers that have them."""
    found = node.client.volume.list()
    rows = [("NAME", "SIZE", "CONTAINERS")]
    rows += [(row["name"], _limit(row), " ".join(map(str, row["containers"]))) for row in found]
    node.show(found, console.table(rows, right=frozenset({1})))


def _limit(row: dict[str, Any]) -> str:
    return console.amount(row["size"]) if row["size"] else ""


def inspect(node: Node, name: NameArgument) -> None:
    """Show a volume and how much is in it."""
    found = node.patient(_MAKE_S).volume.get(name)
    used = "" if found["used"] is None else console.amount(found["used"])
    pairs = [
        ("size", _limit(found)),
        ("used", used),
        ("containers", " ".join(map(str, found["containers"]))),
        ("path", found["path"]),
    ]
    node.show(found, console.fields([pair for pair in pairs if pair[1]]))


def remove(node: Node, name: NameArgument) -> None:
    """Remove a volume with all that is in it."""
    node.patient(_MAKE_S).volume.remove(name)
    node.done(name=name)


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    of_volumes = group(app, "volume", "Volumes of containers.")
    command(of_volumes, "create")(create)
    command(of_volumes, "list")(volumes)
    command(of_volumes, "inspect")(inspect)
    command(of_volumes, "remove")(remove)
