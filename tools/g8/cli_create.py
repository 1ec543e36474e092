"""`g8 container create, limits, backup, restore` (blocking), and their options as arguments of corex.*."""

from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import cli_nics, cli_volumes, complete, console
from g8tools.g8.cli_nics import ContainerArgument
from g8tools.g8.frame import Node, Pairs, arguments_of, command, texts_of

_CREATE_S: Final = 120.0
_SIZE: Final = "BYTES, as 512M"
_POLICIES: Final = ("no", "on-failure", "always")

Cpu = Annotated[float, typer.Option(min=0, metavar="N", help="Processors, as 1.5.")]
Memory = Annotated[str, typer.Option(metavar="SIZE", help=f"Memory: {_SIZE}.")]
Swap = Annotated[str, typer.Option(metavar="SIZE", help=f"Swap beside it: {_SIZE}.")]
Processes = Annotated[int, typer.Option("--pids", min=0, metavar="N", help="Processes and threads.")]
Many = list[str] | None
Url = Annotated[str, typer.Argument(metavar="URL", help="Of the restic repository, as /folder or rest:URL.")]
PasswordFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The repository's password.")]


def create(
    node: Node,
    root: Annotated[str, typer.Argument(metavar="FLIST", help="URL or path of the flist.")],
    pairs: Pairs = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="For lookup.")] = "",
    hostname: Annotated[str, typer.Option(metavar="NAME", help="Its host name.")] = "",
    host_network: Annotated[bool, typer.Option("--host-network", help="Use the node's network.")] = False,
    privileged: Annotated[bool, typer.Option("--privileged", help="All capabilities.")] = False,
    userns: Annotated[bool, typer.Option("--userns", help="Its root is nobody on the node.")] = False,
    env: Annotated[Many, typer.Option(metavar="KEY=VALUE", help="Environment.")] = None,
    nic: Annotated[
        Many, typer.Option(metavar=cli_nics.NIC, help=f"{cli_nics.NIC_HELP} May be repeated.")
    ] = None,
    port: Annotated[
        Many, typer.Option(metavar="SOURCE=PORT", help="Forward a port of the node; gives a default link.")
    ] = None,
    mount: Annotated[
        Many, typer.Option(metavar="SOURCE=PATH", help="A folder of the node, or an flist.")
    ] = None,
    layer: Annotated[Many, typer.Option(metavar="FLIST", help="Over the root; the last is on top.")] = None,
    tmpfs: Annotated[Many, typer.Option(metavar="PATH=SIZE", help=f"A folder in memory: {_SIZE}.")] = None,
    volume: Annotated[
        Many,
        typer.Option(
            metavar=cli_volumes.VOLUME,
            help="A volume of the node; made if it is not there.",
            autocompletion=complete.volumes_to_mount,
        ),
    ] = None,
    size: Annotated[str, typer.Option(metavar="SIZE", help=f"What may be written: {_SIZE}.")] = "",
    readonly: Annotated[bool, typer.Option("--readonly", help="Nothing can be written to the root.")] = False,
    device: Annotated[Many, typer.Option(metavar="DEV[:DEV[:rwm]]", help="A device of the node.")] = None,
    sysctl: Annotated[Many, typer.Option(metavar="KEY=VALUE", help="A kernel setting of its own.")] = None,
    cgroup: Annotated[
        Many, typer.Option(metavar="SUBSYSTEM/NAME", help="A control group it is to be in.")
    ] = None,
    cpu: Cpu = 0,
    memory: Memory = "",
    swap: Swap = "",
    pids: Processes = 0,
    user: Annotated[str, typer.Option(metavar="USER[:GROUP]", help="Whom its program runs as.")] = "",
    workdir: Annotated[str, typer.Option(metavar="DIR", help="Where its program starts.")] = "",
    restart: Annotated[
        str, typer.Option(metavar="POLICY[:MAX]", help="no, on-failure or always, and how often at most.")
    ] = "",
    health: Annotated[str, typer.Option(metavar="LINE", help="A line for its sh: 0 is healthy.")] = "",
    health_interval: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds between two.")] = 0,
    storage: Annotated[str, typer.Option(metavar="URL", help="Chunk store of the flist.")] = "",
    tag: Annotated[Many, typer.Option(metavar="TAG", help="A tag; may be repeated.")] = None,
) -> None:
    """Create a container and print its id.

    Further arguments of corex.create are given as KEY=VALUE.
    """
    arguments = arguments_of(pairs)
    nics = [cli_nics.parse_nic(text) for text in nic or ()]
    if port and not nics and "nics" not in arguments:
        nics = [{"type": "default"}]
    options = {
        "name": name,
        "hostname": hostname,
        "host_network": host_network,
        "privileged": privileged,
        "userns": userns,
        "storage": storage,
        "env": texts_of("--env", env),
        "mount": texts_of("--mount", mount),
        "nics": nics,
        "port": cli_nics.ports_of(port),
        "layers": layer,
        "tmpfs": {path: _size("--tmpfs", text) for path, text in texts_of("--tmpfs", tmpfs).items()},
        "volumes": cli_volumes.volumes_of(volume),
        "size": _size("--size", size),
        "readonly": readonly,
        "devices": device,
        "sysctls": texts_of("--sysctl", sysctl),
        "cgroups": [_group(text) for text in cgroup or ()],
        "limits": limits_of(cpu, memory, swap, pids),
        "user": user,
        "workdir": workdir,
        "restart": _restart(restart),
        "health": _health(health, health_interval),
    }
    arguments |= {key: value for key, value in options.items() if value}
    client = node.patient(_CREATE_S)
    result = client.sync("corex.create", {"root": root, **arguments}, tags=tag)
    node.show({"id": result.json()}, str(result.json()))


def limits_of(cpu: float, memory: str, swap: str, pids: int) -> dict[str, Any]:
    """The `limits` of corex.create: those that were given."""
    given = {"cpu": cpu, "memory": _size("--memory", memory), "swap": _size("--swap", swap), "pids": pids}
    return {key: value for key, value in given.items() if value}


def _size(option: str, text: str) -> int:
    return console.size_of(text, option) if text else 0


def _group(text: str) -> list[str]:
    subsystem, slash, name = text.partition("/")
    if not (subsystem and slash and name):
        raise InvalidArgument(f"--cgroup {text}: expected SUBSYSTEM/NAME, as memory/box")
    return [subsystem, name]


def _restart(text: str) -> dict[str, Any]:
    policy, colon, most = text.partition(":")
    if text and (policy not in _POLICIES or (colon and not most.isdecimal())):
        raise InvalidArgument(f"--restart {text}: expected {', '.join(_POLICIES)}, and :MAX")
    return {"policy": policy, **({"max_retries": int(most)} if colon else {})} if text else {}


def _health(line: str, interval_s: float) -> dict[str, Any]:
    if interval_s and not line:
        raise InvalidArgument("--health-interval: expected --health beside it")
    return {"command": line, **({"interval": interval_s} if interval_s else {})} if line else {}


def limits(
    node: Node,
    container: ContainerArgument,
    cpu: Annotated[float | None, typer.Option(min=0, metavar="N", help="Processors; 0: no limit.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory; 0: no limit.")] = None,
    swap: Annotated[str | None, typer.Option(metavar="SIZE", help="Swap beside it.")] = None,
    pids: Annotated[int | None, typer.Option(min=0, metavar="N", help="Processes; 0: no limit.")] = None,
) -> None:
    """Change what a running container may use; what is not given stays."""
    wanted = {
        "cpu": cpu,
        "memory": console.size_of(memory, "--memory") if memory is not None else None,
        "swap": console.size_of(swap, "--swap") if swap is not None else None,
        "pids": pids,
    }
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found = node.client.container.limits(node.container_id(container), wanted)
    node.show(found, console.fields([(key, str(value)) for key, value in found.items() if value]))


def repository_url(url: str, password_file: Path | None) -> str:
    """The URL with the password of the file, before its snapshot."""
    if password_file is None:
        return url
    place, hash, snapshot = url.partition("#")
    word = quote(password_file.read_text().strip(), safe="")
    return f"{place}{'&' if '?' in place else '?'}password={word}{hash}{snapshot}"


def backup(
    node: Node,
    container: ContainerArgument,
    url: Url,
    password_file: PasswordFile = None,
    tag: Annotated[Many, typer.Option(metavar="TAG", help="Of the snapshot; may be repeated.")] = None,
) -> None:
    """Save a container's root in a restic repository; the id of the snapshot."""
    arguments = {"container": node.container_id(container), "url": repository_url(url, password_file)}
    result = node.client.sync("corex.backup", {**arguments, "tags": tag or []})
    node.show({"snapshot": result.json()}, str(result.json()))


def restore(
    node: Node,
    url: Annotated[str, typer.Argument(metavar="URL#SNAPSHOT", help="The snapshot.")],
    password_file: PasswordFile = None,
    tag: Annotated[Many, typer.Option(metavar="TAG", help="Of the container; may be repeated.")] = None,
) -> None:
    """Make the container of a snapshot again; its id."""
    result = node.client.sync("corex.restore", {"url": repository_url(url, password_file)}, tags=tag)
    node.show({"id": result.json()}, str(result.json()))


def register(containers: typer.Typer) -> None:
    """Put these commands into `g8 container`."""
    command(containers, "create")(create)
    command(containers, "limits")(limits)
    command(containers, "backup")(backup)
    command(containers, "restore")(restore)
