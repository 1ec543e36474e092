"""What every command that talks to a node has in common (blocking): options, connection, output.

    @command(app, "ping")
    def ping(node: Node) -> None:
        node.show(node.client.ping())

`command` adds the options of a connection and `--json` to the function's own parameters; the function gets a
Node first, which connects when it is asked for its client.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import complete, connection, console

if TYPE_CHECKING:
    from g8tools.g8.base import BaseClient
    from g8tools.g8.client import Client
    from g8tools.g8.flow import Blocking

PASS_THROUGH: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}

NodeOption = Annotated[
    str,
    typer.Option(
        "--node",
        "-n",
        metavar="HOST[:PORT]",
        help="The node; else G8_NODE.",
    ),
]
ContextOption = Annotated[
    str,
    typer.Option(
        "--context",
        metavar="NAME",
        help="A context instead; else G8_CONTEXT, else the current one.",
        autocompletion=complete.contexts,
    ),
]
PasswordFileOption = Annotated[
    str,
    typer.Option(
        "--password-file", metavar="FILE", help="The gate's password or a token; else G8_PASSWORD_FILE."
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Longest wait for the node's answer [10]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]

ContainerOption = Annotated[
    str,
    typer.Option(
        "--container",
        metavar="ID|NAME",
        help="Inside this container.",
        autocompletion=complete.containers,
    ),
]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE…]", help="VALUE is JSON, or plain text if it is none."),
]
Words = Annotated[list[str], typer.Argument(metavar="CMD…", help="Program and arguments.")]

_before = connection.Options()


def set_options(options: connection.Options) -> None:
    """What stood before the command; what comes after it wins."""
    global _before
    _before = options


class Node:
    """The node of this call."""

    def __init__(self, options: connection.Options, *, json: bool) -> None:
        self.options = options
        self.json = json
        self.timeout = options.timeout

    @functools.cached_property
    def client(self) -> "Client":
        return connection.find(self.options).connect(self.timeout)

    def patient(self, least_s: float) -> "Client":
        """For what takes long: waits so many seconds unless --timeout says otherwise."""
        return self.client if self.timeout is not None else self.client.with_timeout(least_s)

    def inside(self, container: str) -> "BaseClient[Blocking]":
        """The client of a container, or the node's when none is named."""
        if not container:
            return self.client
        return self.client.container.client(self.container_id(container))

    def container_id(self, query: str) -> int:
        """Of a container named by its id or its name."""
        if query.isdecimal():
            return int(query)
        found = self.client.container.get(query)
        if found is None:
            raise InvalidArgument(f"no container {query!r}", hint="g8 container list")
        return int(found["id"])

    def show(self, value: Any, text: str | None = None) -> None:
        """Print a result: JSON when asked, the text otherwise (the value itself when there is none)."""
        console.show(value, json=self.json, text=text)

    def done(self, **fields: Any) -> None:
        console.done(**fields)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def command(
    app: typer.Typer, name: str, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the tool; see the module."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(
            *,
            g8_node: str,
            g8_context: str,
            g8_password_file: str,
            g8_timeout: float | None,
            g8_json: bool,
            **given: Any,
        ) -> Any:
            console.set_json(g8_json)
            node = Node(_options(g8_node, g8_context, g8_password_file, g8_timeout), json=console.is_json())
            try:
                return function(node, **given)
            finally:
                node.close()

        parameters = [*own, *_SHARED]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name, **settings)(run)
        return function

    return add


def _options(node: str, context: str, password_file: str, timeout: float | None) -> connection.Options:
    before = _before
    if node or context:
        before = before._replace(node="", context="")
    return connection.Options(
        node or before.node,
        context or before.context,
        password_file or before.password_file,
        before.timeout if timeout is None else timeout,
        before.tls,
    )


def _shared(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED: Final = (
    _shared("g8_node", NodeOption, ""),
    _shared("g8_context", ContextOption, ""),
    _shared("g8_password_file", PasswordFileOption, ""),
    _shared("g8_timeout", TimeoutOption, None),
    _shared("g8_json", JsonOption, False),
)


def group(parent: typer.Typer, name: str, text: str) -> typer.Typer:
    """A group of commands."""
    made = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    parent.add_typer(made, name=name)
    return made


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


def texts_of(option: str, pairs: list[str] | None) -> dict[str, str]:
    """KEY=VALUE words of an option, as text."""
    wrong = next((pair for pair in pairs or [] if not pair.partition("=")[1] or pair.startswith("=")), None)
    if wrong is not None:
        raise InvalidArgument(f"{option} {wrong}: expected KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs or [])
