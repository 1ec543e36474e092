"""`g8 config …` (blocking): settings of a node, and checking a file before it goes on one."""

from typing import Annotated, Any

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import console
from g8tools.g8.frame import Node, command, group


def show(node: Node) -> None:
    """Show the settings that a node runs with."""
    found = node.client.config.get()
    node.show(found, console.fields(_flat(found)))


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{key}.")
        else:
            pairs.append((key, str(value) if value not in (None, "") else "-"))
    return pairs


def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A g8node.toml.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check a settings file.

    Each key that a node would drop is named with its line.
    """
    from g8node import config

    console.set_json(json)
    with open(file, encoding="utf-8") as source:
        text = source.read()
    _, warnings = config.load(text, file=file)
    if console.is_json():
        console.show({"ok": not warnings, "problems": warnings}, json=True)
        return console.WRONG_USE if warnings else 0
    if warnings:
        print("\n".join(warnings))
        raise InvalidArgument(f"{file}: {len(warnings)} of its keys would be dropped")
    print(f"{file}: all of it would be used")
    return 0


def defaults(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List every setting there is."""
    from g8node import config

    rows = [
        {"key": key, "kind": kind, "default": _plain(default), "text": text}
        for key, kind, default, text in config.describe()
    ]
    table = [("SETTING", "KIND", "DEFAULT", "")]
    table += [(row["key"], row["kind"], str(row["default"]), row["text"]) for row in rows]
    console.show(rows, json=json, text=console.table(table))


def _plain(default: Any) -> Any:
    return default if isinstance(default, str | int | float | bool | list | dict) else str(default)


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    settings = group(app, "config", "Settings of nodes.")
    command(settings, "show")(show)
    settings.command("check")(check)
    settings.command("defaults")(defaults)
