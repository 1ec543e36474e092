"""`g8 ping`, `raw`, `run`, `ps` and `g8 container …` (blocking): words into calls of the client library."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import console

if TYPE_CHECKING:
    from g8tools.g8.client import Client, Commands, Response, Result

T = TypeVar("T")

Node = Annotated[
    str | None,
    typer.Option("--node", metavar="HOST:PORT", help="The node; else G8_NODE, else build/up.json."),
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the gate's password; else G8_PASSWORD_FILE.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Longest wait for the result.")]
Words = Annotated[list[str], typer.Argument(metavar="CMD…", help="Program and arguments, after --.")]
Pairs = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="VALUE is JSON, or plain text if it is none.")
]

_PASS_THROUGH: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_EXIT_BASE: Final = 1000
_KILLED: Final = 999
_KILLED_STATUS: Final = 137
_NOT_FOUND: Final = 404
_NOT_FOUND_STATUS: Final = 127

container_app = typer.Typer(help="Containers of a node.", no_args_is_help=True, rich_markup_mode=None)


def arguments_of(pairs: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE words as a command's arguments. InvalidArgument."""
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise InvalidArgument(f"{pair}: expected KEY=VALUE")
        try:
            arguments[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            arguments[key] = text
    return arguments


def exit_status(result: "Result") -> int:
    """What a shell would say of the remote process."""
    if result.state == "SUCCESS":
        return 0
    if result.code > _EXIT_BASE:
        return (result.code - _EXIT_BASE) & 0xFF
    return {_KILLED: _KILLED_STATUS, _NOT_FOUND: _NOT_FOUND_STATUS}.get(result.code, 1)


def with_client(node: str | None, password_file: Path | None, work: "Callable[[Client], Awaitable[T]]") -> T:
    """Connect, do the work, disconnect."""
    from g8tools.g8.client import Client
    from g8tools.g8.connection import find, tls_options
    from g8tools.g8.tls import context

    target, tls = find(node, password_file), context(tls_options())

    async def connected() -> T:
        async with Client(target.host, target.port, target.password, tls=tls) as client:
            return await work(client)

    return console.run_async(connected())


async def _follow(response: "Response", timeout_s: float) -> int:
    """Show a process's output as it comes; its exit status."""
    shown = 0

    def show(level: int, text: str, _flags: int) -> None:
        nonlocal shown
        shown += len(text)
        stream = sys.stdout if level == 1 else sys.stderr
        stream.write(text)
        stream.flush()

    await response.stream(show)
    result = await response.get(timeout_s)
    if result.state == "TIMEOUT" or (result.state != "SUCCESS" and result.code < _KILLED and not shown):
        reason = result.data or result.critical or "ended by the node"
        print(f"g8: {result.command}: {result.state}: {reason}", file=sys.stderr)
    return exit_status(result)


def ping(node: Node = None, password_file: PasswordFile = None, json: Json = False) -> None:
    """Ask the node whether it is there."""
    answer = with_client(node, password_file, lambda client: client.ping())
    console.show(answer, json=json, text=answer)


def raw(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Command name, as info.cpu.")],
    pairs: Pairs = None,
    node: Node = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 60.0,
    max_time: Annotated[int, typer.Option(help="The node kills the job after so many seconds.")] = 0,
    queue: Annotated[str, typer.Option(help="Jobs of one queue run one after another.")] = "",
) -> None:
    """Run any command and print its data; with other levels, the whole result."""
    arguments = arguments_of(pairs)

    async def work(client: "Client") -> "Result":
        response = await client.raw(name, arguments, queue=queue, max_time=max_time)
        return (await response.get(timeout)).checked()

    result = with_client(node, password_file, work)
    if result.level == 20:
        console.show(result.json(), json=True)
    elif result.streams and not result.data:
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
    else:
        sys.stdout.write(result.data)


def run(
    words: Words,
    node: Node = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 60.0,
    max_time: Annotated[int, typer.Option(help="The node kills the job after so many seconds.")] = 0,
) -> int:
    """Run a program on the node, show its output, leave with its exit status."""

    async def work(client: "Client") -> int:
        return await _follow(await client.system(words, stream=True, max_time=max_time), timeout)

    return with_client(node, password_file, work)


def ps(node: Node = None, password_file: PasswordFile = None, json: Json = False) -> None:
    """List the node's jobs."""
    jobs = with_client(node, password_file, lambda client: client.json("job.list"))
    console.show(jobs, json=json, text=jobs_table(jobs))


def jobs_table(jobs: list[dict[str, Any]]) -> str:
    """The original's job.list ({cmd: {id, command, …}, pid, starttime, …}) as a table."""
    rows: list[tuple[str, ...]] = [("ID", "COMMAND", "PID", "TAGS")]
    for job in jobs:
        command: Mapping[str, Any] = job.get("cmd") or {}
        rows.append(
            (
                str(command.get("id", "")),
                str(command.get("command", "")),
                str(job.get("pid", "") or ""),
                ",".join(command.get("tags") or ()),
            )
        )
    return console.table(rows)


def containers_table(containers: Mapping[str, Any]) -> str:
    """The answer of corex.list as a table."""
    rows: list[tuple[str, ...]] = [("ID", "NAME", "PID", "ROOT", "TAGS")]
    for id, entry in sorted(containers.items(), key=lambda item: int(item[0])):
        container = entry.get("container") or {}
        arguments = container.get("arguments") or {}
        rows.append(
            (
                id,
                str(arguments.get("name") or ""),
                str(container.get("pid") or ""),
                str(arguments.get("root") or ""),
                ",".join(arguments.get("tags") or ()),
            )
        )
    return console.table(rows)


@container_app.command("list")
def container_list(node: Node = None, password_file: PasswordFile = None, json: Json = False) -> None:
    """List containers."""
    containers = with_client(node, password_file, lambda client: client.container.list())
    console.show(containers, json=json, text=containers_table(containers))


@container_app.command("create")
def container_create(
    root: Annotated[str, typer.Argument(metavar="FLIST", help="URL or path of the flist.")],
    pairs: Pairs = None,
    node: Node = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 120.0,
    name: Annotated[str, typer.Option(help="Name of the container.")] = "",
    hostname: Annotated[str, typer.Option(help="Its host name.")] = "",
    host_network: Annotated[bool, typer.Option("--host-network", help="Use the node's network.")] = False,
    privileged: Annotated[bool, typer.Option("--privileged", help="All capabilities.")] = False,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment.")] = None,
    storage: Annotated[str, typer.Option(metavar="URL", help="Chunk store of the flist.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
) -> None:
    """Create a container; prints its id. More of corex.create's arguments as KEY=VALUE."""
    arguments = arguments_of(pairs)
    options = {
        "name": name,
        "hostname": hostname,
        "host_network": host_network,
        "privileged": privileged,
        "storage": storage,
        "tags": tag,
        "env": _environment(env),
    }
    arguments |= {key: value for key, value in options.items() if value}
    print(
        with_client(node, password_file, lambda client: client.container.create(root, timeout, **arguments))
    )


def _environment(pairs: list[str] | None) -> dict[str, str]:
    wrong = next((pair for pair in pairs or [] if "=" not in pair), None)
    if wrong is not None:
        raise InvalidArgument(f"--env {wrong}: expected KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs or [])


@container_app.command("terminate")
def container_terminate(
    container: Annotated[int, typer.Argument(help="Its id.")],
    node: Node = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 60.0,
) -> None:
    """Stop a container and wait until it is gone."""
    with_client(node, password_file, lambda client: client.container.terminate(container, timeout))


@container_app.command("exec", context_settings=_PASS_THROUGH)
def container_exec(
    container: Annotated[int, typer.Argument(help="Its id.")],
    words: Words,
    node: Node = None,
    password_file: PasswordFile = None,
    timeout: Timeout = 60.0,
) -> int:
    """Run a program in a container, show its output, leave with its exit status."""

    async def work(client: "Client") -> int:
        inside: Commands = client.container.client(container)
        # The parser leaves -- alone when it comes after the container's id.
        return await _follow(await inside.system(words[words[0] == "--" :], stream=True), timeout)

    return with_client(node, password_file, work)


def register(app: typer.Typer) -> None:
    """Put the commands that have no group of their own into the tool."""
    app.command()(ping)
    app.command()(raw)
    app.command(context_settings=_PASS_THROUGH)(run)
    app.command()(ps)
