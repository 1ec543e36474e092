"""`g8 ping`, `info`, `ps`, `kill`, `raw`, `commands`, `state`, `service …` (blocking)."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import complete, console
from g8tools.g8.frame import ContainerOption, Node, Pairs, arguments_of, command, group
from g8tools.g8.results import LEVEL_JSON

Rows = list[dict[str, Any]]
Part = Literal["cpu", "mem", "disk", "nic", "os", "port", "version", "dmi"]
_SUMMARY: Final = ("version", "os", "cpu", "mem", "disk", "nic")

ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Its id.", autocompletion=complete.services)
]


def ping(node: Node) -> None:
    """Ask the node whether it is there."""
    answer = node.client.ping()
    node.show(answer, answer)


def info(
    node: Node,
    part: Annotated[Part | None, typer.Argument(help="What of it; in short when left out.")] = None,
    container: ContainerOption = "",
) -> None:
    """Show the machine.

    Processors, memory, file systems, network links, listening ports, firmware.
    """
    inside: Any = node.inside(container)
    if part is None:
        parts = {name: getattr(inside.info, name)() for name in _SUMMARY}
        node.show(parts, summary(parts))
        return
    if part == "dmi" and container:
        raise InvalidArgument("dmi: only the node has it")
    found = getattr(inside.info, part)()
    node.show(found, _SHOWN[part](found))


def summary(parts: Mapping[str, Any]) -> str:
    """A page about a machine."""
    os, mem, cpus = parts["os"], parts["mem"], parts["cpu"]
    models = sorted({cpu["modelName"] for cpu in cpus})
    disks = [f"{disk['mountpoint']} ({disk['fstype']}, {disk['device']})" for disk in parts["disk"]]
    nics = [
        f"{nic['name']} {' '.join(addr['addr'] for addr in nic['addrs'])}"
        for nic in parts["nic"]
        if nic["addrs"] and nic["name"] != "lo"
    ]
    return console.fields(
        [
            ("host", os["hostname"]),
            ("version", " ".join(str(parts["version"].get(key) or "") for key in ("branch", "revision"))),
            ("system", f"{os['platform']} {os['platformVersion']}, kernel {os['kernelVersion']}"),
            ("up", console.duration(os["uptime"])),
            ("processors", f"{len(cpus)} of {', '.join(models)}"),
            ("memory", f"{console.amount(mem['available'])} of {console.amount(mem['total'])} available"),
            *(("disk", disk) for disk in disks),
            *(("address", nic) for nic in nics),
        ]
    )


def _cpu(rows: Rows) -> str:
    table = [("CPU", "CORE", "SOCKET", "MHZ", "CACHE", "MODEL")]
    for row in rows:
        cache = console.amount(row["cacheSize"] * 1024) if row["cacheSize"] > 0 else ""
        core, socket = str(row["coreId"]), str(row["physicalId"])
        table.append((str(row["cpu"]), core, socket, f"{row['mhz']:.0f}", cache, row["modelName"]))
    return console.table(table, right=frozenset({0, 3, 4}))


def _mem(row: Mapping[str, Any]) -> str:
    names = ("total", "available", "used", "free", "buffers", "cached", "shared", "slab", "dirty")
    return console.fields([(name, console.amount(row[name])) for name in names])


def _disk(rows: Rows) -> str:
    table = [("DEVICE", "MOUNTPOINT", "TYPE", "OPTIONS")]
    table += [(row["device"], row["mountpoint"], row["fstype"], row["opts"]) for row in rows]
    return console.table(table)


def _nic(rows: Rows) -> str:
    table = [("NAME", "STATE", "MTU", "MAC", "ADDRESSES")]
    for row in rows:
        state = "up" if "up" in row["flags"] or row["operstate"] else "down"
        if state == "up" and not row["carrier"]:
            state = "no carrier"
        addresses = " ".join(addr["addr"] for addr in row["addrs"])
        table.append((row["name"], state, str(row["mtu"]), row["hardwareaddr"], addresses))
    return console.table(table, right=frozenset({2}))


def _os(row: Mapping[str, Any]) -> str:
    return console.fields(
        [(name, console.duration(text) if name == "uptime" else str(text)) for name, text in row.items()]
    )


def _port(rows: Rows) -> str:
    table = [("NETWORK", "ADDRESS", "PID")]
    for row in rows:
        address = row.get("unix") or f"{row.get('ip', '')}:{row.get('port', '')}"
        table.append((row["network"], address, str(row["pid"] or "")))
    return console.table(table)


def _version(row: Mapping[str, Any]) -> str:
    return console.fields([(name, str(text)) for name, text in row.items()])


def _dmi(found: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for section in found["sections"]:
        for sub in section["subsections"]:
            lines.append(sub["title"])
            lines += [f"  {name}: {value['value']}" for name, value in sub["properties"].items()]
    return "\n".join(lines)


_SHOWN: Final[dict[str, Callable[[Any], str]]] = {
    "cpu": _cpu,
    "mem": _mem,
    "disk": _disk,
    "nic": _nic,
    "os": _os,
    "port": _port,
    "version": _version,
    "dmi": _dmi,
}


def ps(node: Node, container: ContainerOption = "") -> None:
    """List processes; jobs are `g8 job list`."""
    inside: Any = node.inside(container)
    rows = inside.process.list()
    node.show(rows, processes_table(rows))


def processes_table(rows: Rows) -> str:
    """The answer of process.list."""
    table = [("PID", "PPID", "RSS", "CPU TIME", "STARTED", "COMMAND")]
    for row in sorted(rows, key=lambda row: int(row["pid"])):
        spent = row["cpu"]["user"] + row["cpu"]["system"]
        started = console.duration(time.time() - row["createtime"] / 1000)
        what = row["cmdline"] or f"[{row['name']}]"
        table.append(
            (
                str(row["pid"]),
                str(row["ppid"]),
                console.amount(row["rss"]),
                console.duration(spent),
                f"{started} ago",
                what,
            )
        )
    return console.table(table, right=frozenset({0, 1, 2, 3, 4}))


def kill(
    node: Node,
    pid: Annotated[int, typer.Argument(metavar="PID", min=2, help="Its process id.")],
    signal: Annotated[
        int, typer.Option("--signal", "-s", metavar="N", min=0, max=64, help="Which signal.")
    ] = 15,
    container: ContainerOption = "",
) -> None:
    """Send a signal to a process."""
    inside: Any = node.inside(container)
    inside.process.kill(pid, signal)
    node.done(pid=pid, signal=signal)


def raw(
    node: Node,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Command name, as info.cpu.", autocompletion=complete.commands),
    ],
    pairs: Pairs = None,
    max_time: Annotated[int, typer.Option(metavar="SECONDS", min=0, help="The node kills the job then.")] = 0,
    queue: Annotated[str, typer.Option(metavar="NAME", help="Jobs of one queue run one by one.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="A tag of the job; may be repeated.")
    ] = None,
    container: ContainerOption = "",
) -> None:
    """Run any command of the node.

    Prints its data as JSON, a program's output as it is.
    """
    inside = node.inside(container)
    response = inside.raw(name, arguments_of(pairs), queue=queue, max_time=max_time, tags=tag)
    result = response.get(node.timeout or max(60.0, max_time + 5.0)).checked()
    if result.level == LEVEL_JSON:
        console.show(result.json(), json=True)
    elif node.json:
        console.show(result.payload, json=True)
    else:
        sys.stdout.write(result.data or result.stdout)
        sys.stderr.write(result.stderr)


def commands(
    node: Node,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Only this one.", autocompletion=complete.commands)
    ] = "",
) -> None:
    """List the node's commands, or explain one."""
    rows = node.client.core.help(name or None)
    node.show(rows, _command_help(rows[0]) if name else commands_table(rows))


def commands_table(rows: Rows) -> str:
    table = [("COMMAND", "ROLE", "")]
    table += [(row["command"], row["role"], row["text"].partition("\n")[0]) for row in rows]
    return console.table(table)


def _command_help(row: Mapping[str, Any]) -> str:
    where = "host and containers" if row["base"] else "host"
    lines = [f"{row['command']}  (role {row['role']}, {where})", "", row["text"]]
    if row["arguments"]:
        table = [("ARGUMENT", "KIND", "DEFAULT", "")]
        for each in row["arguments"]:
            default = each.get("default", "")
            table.append(
                (
                    each["name"],
                    each.get("kind", ""),
                    "required" if each.get("required") else "" if default is None else str(default),
                    each.get("text") or each.get("description") or "",
                )
            )
        lines += ["", console.table(table)]
    return "\n".join(lines)


def state(node: Node) -> None:
    """Show how core0 and its subsystems do."""
    found = node.client.core.state()
    pairs = [
        ("memory", console.amount(found["rss"])),
        ("cpu", f"{found['cpu']:.1f} %"),
        ("jobs", str(found["jobs"])),
        ("stalls", str(found["stalls"])),
    ]
    table = [("SUBSYSTEM", "STATE", "RESTARTS", "LAST ERROR")]
    table += [
        (each["name"], "running" if each["running"] else "ended", str(each["restarts"]), each["last_error"])
        for each in found["subsystems"]
    ]
    node.show(found, f"{console.fields(pairs)}\n\n{console.table(table, right=frozenset({2}))}")


def service_list(node: Node) -> None:
    """List the services that the node starts at boot."""
    rows = node.client.service.list()
    table = [("SERVICE", "STATE", "SLICE", "REASON")]
    table += [
        (row["id"], row["state"], str(row.get("slice") or ""), str(row.get("reason") or "")) for row in rows
    ]
    node.show(rows, console.table(table))


def service_start(node: Node, id: ServiceArgument) -> None:
    """Start a service, whatever its condition."""
    _service(node, node.patient(60).service.start(id))


def service_stop(node: Node, id: ServiceArgument) -> None:
    """Stop a service for good."""
    _service(node, node.patient(60).service.stop(id))


def service_restart(node: Node, id: ServiceArgument) -> None:
    """Stop a service if it runs, and start it."""
    _service(node, node.patient(60).service.restart(id))


def _service(node: Node, row: Mapping[str, Any]) -> None:
    node.show(row, f"{row['id']}: {row['state']}")


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    command(app, "ping")(ping)
    command(app, "info")(info)
    command(app, "ps")(ps)
    command(app, "kill")(kill)
    command(app, "raw")(raw)
    command(app, "commands")(commands)
    command(app, "state")(state)
    services = group(app, "service", "Services of a node.")
    command(services, "list")(service_list)
    command(services, "start")(service_start)
    command(services, "stop")(service_stop)
    command(services, "restart")(service_restart)
