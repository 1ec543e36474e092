"""`g8 context …` and `g8 completion` (blocking): nodes with names, and what the shell is to know."""

import sys
from typing import Annotated, Literal

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import complete, connection, console, contexts
from g8tools.g8.contexts import Context

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=complete.contexts)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

context_app = typer.Typer(help="Nodes with names.", no_args_is_help=True, rich_markup_mode=None)


@context_app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the context.")],
    node: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Where its gate is.")],
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="Read the password from there at every call.")
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Keep the password that comes on stdin.")
    ] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS.")] = False,
    cacert: Annotated[str, typer.Option(metavar="FILE", help="The only CA to trust.")] = "",
    cert: Annotated[str, typer.Option(metavar="FILE", help="Our certificate.")] = "",
    key: Annotated[str, typer.Option(metavar="FILE", help="Its key.")] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="TLS with whoever answers.")] = False,
    use: Annotated[bool, typer.Option("--use", help="Make it the current one.")] = False,
    json: Json = False,
) -> None:
    """Remember a node; the first one becomes the current one."""
    console.set_json(json)
    contexts.check_name(name)
    connection.parse_address(node)
    if password_file and password_stdin:
        raise InvalidArgument("--password-file and --password-stdin: expected one of them")
    password = sys.stdin.readline().strip() if password_stdin else ""
    if password_stdin and not password:
        raise InvalidArgument("--password-stdin: no password came")
    files = [_absolute(path) for path in (password_file, cacert, cert, key)]
    known = contexts.load()
    known.contexts[name] = Context(
        node, password, files[0], tls, cacert=files[1], cert=files[2], key=files[3], insecure=insecure
    )
    if use or not known.current:
        known.current = name
    contexts.save(known)
    console.done(context=name)


def _absolute(path: str) -> str:
    """Seen from here, and it must be there."""
    from pathlib import Path

    return str(Path(path).resolve(strict=True)) if path else ""


@context_app.command("use")
def use(name: Name, json: Json = False) -> None:
    """Make a context the current one."""
    console.set_json(json)
    known = contexts.load()
    known.get(name)
    known.current = name
    contexts.save(known)
    console.done(context=name)


@context_app.command("remove")
def remove(name: Name, json: Json = False) -> None:
    """Forget a context."""
    console.set_json(json)
    known = contexts.load()
    known.get(name)
    del known.contexts[name]
    if known.current == name:
        known.current = ""
    contexts.save(known)
    console.done(context=name)


@context_app.command("list")
def list_(json: Json = False) -> None:
    """List contexts; the current one has a star."""
    known = contexts.load()
    rows = [("", "NAME", "NODE", "TLS", "PASSWORD")]
    shown = []
    for name, context in sorted(known.contexts.items()):
        secret = context.password_file or ("kept here" if context.password else "none")
        tls = "insecure" if context.insecure else "yes" if context.tls or context.cacert else "no"
        rows.append(("*" if name == known.current else "", name, context.node, tls, secret))
        shown.append({"name": name, "current": name == known.current, "node": context.node, "tls": tls})
    console.show(shown, json=json, text=console.table(rows))


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell.")],
) -> None:
    """Print what makes a shell complete g8's words.

    `eval "$(g8 completion bash)"` in ~/.bashrc; likewise for zsh; for fish, `g8 completion fish | source`.
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="g8", complete_var="_G8_COMPLETE", shell=shell))


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    app.add_typer(context_app, name="context")
    app.command()(completion)
