"""Extensions (pure): commands that run a program which an include folder names; spec core0-protocol 1.5."""

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from g8node.boot.services import Extension, keys_of, substituted
from g8node.errors import InvalidArgument
from g8node.jobs.model import Role
from g8node.jobs.registry import Context, Registry, Spec
from g8node.runtime.stdio import Process


@dataclass(frozen=True, slots=True)
class ExtensionSpec(Spec):
    """Its arguments are those that the template names, and `stdin`; any others are ignored."""

    extension: Extension

    def call(self, ctx: Context, arguments: bytes | msgspec.Raw) -> Process:
        """The program with the caller's arguments put in. Raises InvalidArgument for what is no object."""
        return process_of(self.extension, bytes(arguments))


def add_extensions(registry: Registry, extensions: dict[str, Extension]) -> list[str]:
    """Register them; one line for each whose name is a command of the node."""
    problems = []
    for name, extension in extensions.items():
        if registry.find(name) is not None:
            problems.append(f"extension.{name}: a command of that name exists, dropped")
            continue
        registry.add(_spec(name, extension))
    return problems


def _spec(name: str, extension: Extension) -> ExtensionSpec:
    keys = [key for key in keys_of(extension.args) if key.isidentifier() and key != "stdin"]
    arguments = msgspec.defstruct(
        "ExtensionArgs", [(key, str | None, None) for key in [*keys, "stdin"]], frozen=True
    )

    def handler(ctx: Context, args: Any) -> None:
        """Stands for `call` above, which needs no decoded arguments."""

    handler.__doc__ = f"Run {extension.binary} (an extension)."
    return ExtensionSpec(
        name=name,
        handler=handler,
        arguments=arguments,
        base=False,
        role=Role.named(extension.role),
        is_async=False,
        extension=extension,
    )


def process_of(extension: Extension, arguments: bytes) -> Process:
    """`{key}` of the template becomes the caller's argument; unknown ones stay; null equals absent."""
    try:
        given = msgspec.json.decode(arguments, type=dict[str, Any] | None) or {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(f"arguments: {error}") from error
    values = {key: _text(value) for key, value in given.items() if value is not None}
    stdin = values.pop("stdin", "")
    argv = [extension.binary, *(substituted(arg, values) for arg in extension.args)]
    return Process(argv=argv, env=extension.env, cwd=extension.cwd or "/", stdin=stdin.encode())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
