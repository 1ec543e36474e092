"""`g8 container …` (blocking)."""

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from g8node.errors import NotFound
from g8tools.g8 import cli_create, cli_nics, console
from g8tools.g8.cli_jobs import Follow, finish
from g8tools.g8.cli_nics import ContainerArgument
from g8tools.g8.frame import (
    PASS_THROUGH,
    Node,
    Words,
    command,
    group,
    texts_of,
)
from g8tools.g8.results import LEVEL_STDOUT

_TERMINATE_S: Final = 60.0


def list_(
    node: Node,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only those with this tag.")] = None,
) -> None:
    """List running containers."""
    found = node.client.container.find(*tag) if tag else node.client.container.list()
    node.show(found, containers_table(found))


def containers_table(containers: Mapping[str, Any]) -> str:
    """The answer of corex.list as a table."""
    rows = [("ID", "NAME", "PID", "RSS", "ROOT", "TAGS")]
    for id, entry in sorted(containers.items(), key=lambda item: int(item[0])):
        container = entry.get("container") or {}
        arguments = container.get("arguments") or {}
        rows.append(
            (
                id,
                str(arguments.get("name") or ""),
                str(container.get("pid") or ""),
                console.amount(entry["rss"]) if entry.get("rss") else "",
                str(arguments.get("root") or ""),
                ",".join(arguments.get("tags") or ()),
            )
        )
    return console.table(rows, right=frozenset({0, 2, 3}))


def terminate(node: Node, container: ContainerArgument) -> None:
    """Stop a container and wait until it is gone."""
    id = node.container_id(container)
    node.patient(_TERMINATE_S).container.terminate(id)
    node.done(id=id)


def exec_(
    node: Node,
    container: ContainerArgument,
    words: Words,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment.")] = None,
    dir: Annotated[str, typer.Option(metavar="DIR", help="Working directory.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="Run it as this user of the container.")] = "",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass our input on as it comes.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Run it on a terminal.")] = False,
) -> int:
    """Run a program in a container; its output and exit status.

    -i -t make our terminal its own: `g8 container exec -it ID sh`.
    """
    words = words[words[0] == "--" :]  # the parser leaves it alone when it comes after the container
    if stdin or tty or user:
        return _talk(
            node, container, words, {"env": texts_of("--env", env), "dir": dir, "user": user}, stdin, tty
        )
    inside = node.inside(container)
    return finish(node, inside.system(words, dir, "", texts_of("--env", env), stream=not node.json))


def _talk(
    node: Node, container: str, words: list[str], options: dict[str, Any], stdin: bool, tty: bool
) -> int:
    from g8tools.g8 import following, talking

    terminal = tty and stdin and sys.stdin.isatty()
    id = node.container_id(container)
    sizes = talking.size() if tty else {}
    arguments = {"container": id, "command": words, "stdin": stdin, "tty": tty, **sizes, **options}
    response = node.client.raw("corex.exec", arguments, stream=not node.json)
    if node.json or not stdin:
        return finish(node, response)
    return following.exit_status(talking.talk(node.client, response, terminal=terminal))


def stats(node: Node, container: ContainerArgument) -> None:
    """Show what the whole container uses."""
    found = node.client.container.stats(node.container_id(container))
    cpu, memory, io = found["cpu"], found["memory"], found["io"]
    limit = f" of {console.amount(memory['limit'])}" if memory.get("limit") else ""
    pairs = [
        ("processes", str(found["processes"])),
        ("cpu", f"{cpu['used_s']:.2f} s"),
        ("memory", f"{console.amount(memory['used'])}{limit}"),
        ("read", console.amount(io["read"])),
        ("written", console.amount(io["written"])),
    ]
    node.show(found, console.fields(pairs))


def logs(
    node: Node,
    container: ContainerArgument,
    follow: Follow = False,
    tail: Annotated[int, typer.Option(metavar="N", min=0, help="Only the last N messages.")] = 0,
) -> int:
    """Show what its process 1 has printed lately; -f: and goes on to print, to its end."""
    id = node.container_id(container)
    if follow:
        response = node.client.raw("corex.logs", {"container": id, "follow": True}, stream=True)
        return following_logs(node, response)
    rows = node.client.container.logs(id, tail)
    if node.json:
        node.show(rows)
    else:
        for row in rows:
            stream = sys.stdout if row["level"] == LEVEL_STDOUT else sys.stderr
            stream.write(row["message"])
    return 0


def following_logs(node: Node, response: Any) -> int:
    """To the end of the container, or of our patience."""
    from g8tools.g8 import following

    following.follow(node.client, response, killable=True, lines=node.json)
    return 0


def inspect(node: Node, container: ContainerArgument) -> None:
    """Show a container."""
    found = node.client.container.get(int(container) if container.isdecimal() else container)
    if found is None:
        raise NotFound(f"no container {container!r}", hint="g8 container list")
    inner = found["container"]
    given = dict(inner["arguments"])
    links = cli_nics.links_of(given)
    arguments = {key: value for key, value in given.items() if value not in (None, "", [], {})}
    job = next(iter(node.client.job.list(f"core-{found['id']}")), None)
    pairs = [
        ("id", str(found["id"])),
        ("pid", str(inner["pid"])),
        ("root", inner["root"]),
        ("age", console.duration(time.time() - job["starttime"] / 1000) if job else ""),
        *links,
        *((f"arguments.{key}", str(value)) for key, value in arguments.items()),
    ]
    node.show(found, console.fields(pairs))


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    containers = group(app, "container", "Containers of a node.")
    command(containers, "list")(list_)
    cli_create.register(containers)
    command(containers, "exec", context_settings=PASS_THROUGH)(exec_)
    command(containers, "logs")(logs)
    command(containers, "stats")(stats)
    command(containers, "inspect")(inspect)
    command(containers, "terminate")(terminate)
    cli_nics.register(containers)
