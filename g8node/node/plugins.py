"""Commands that a container brings itself, by `/.plugin.toml` of its root (pure); core0-resources 1.5.

    [plugin.<domain>]
    path = "/bin/x"        # run inside as: path <function> <arguments in JSON>
    queue = false          # true: one call of the domain after another
    exports = ["function"]

The file is the container's own and may say anything: it is bounded, and what it means is checked whole.
"""

import re
import tomllib
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument

PATH: Final = "/.plugin.toml"
_NAME: Final = r"\A[A-Za-z0-9_-]{1,64}\Z"
_MOST: Final = 256

Name = Annotated[str, Meta(pattern=_NAME)]


class Plugin(Struct, frozen=True):
    """One domain."""

    path: Annotated[str, Meta(pattern=r"\A/[^\x00]{1,4094}\Z")]
    exports: Annotated[list[Name], Meta(max_length=_MOST)]
    queue: bool = False


class _File(Struct, frozen=True):
    plugin: Annotated[dict[Name, Plugin], Meta(max_length=_MOST)] = {}


def find(text: str, command: str) -> tuple[str, Plugin, str] | None:
    """(domain, plugin, function) of a command, None when the file has no such one.

    InvalidArgument when the file makes no sense: then none of it counts.
    """
    domain, _, function = command.partition(".")
    if not text or not re.match(_NAME, domain):
        return None
    try:
        parsed = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError, ValueError) as error:
        raise InvalidArgument(f"{PATH} of the container: {error}") from error
    plugin = parsed.plugin.get(domain)
    if plugin is None or function not in plugin.exports:
        return None
    return domain, plugin, function
