"""What an flist says about how its program is started (pure): `entrypoint`, `environ`, `workdir`, `user`.

The flist is a stranger's. What cannot be understood is refused by name when it would be used.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from g8node.errors import InvalidArgument
from g8node.node.specs import ENV_NAME, Spec, check_user, command

_WORDS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Program:
    """What process 1 of a container is, the caller's wishes and the flist's put together."""

    argv: tuple[str, ...] = ()
    """Empty: the init that only waits."""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""


def program(spec: Spec, info: Mapping[str, str]) -> Program:
    """What the caller gave counts; the flist has a say where he gave nothing. InvalidArgument names it."""
    argv = tuple(command(spec)) if spec.command is not None else _words(info.get("entrypoint", ""))
    user = spec.user if spec.user is not None else info.get("user", "")
    check_user(user)
    cwd = spec.workdir or info.get("workdir", "") or "/"
    if not cwd.startswith("/") or "\0" in cwd:
        raise InvalidArgument(f"workdir: expected an absolute path, got {cwd[:200]!r}")
    return Program(argv, _environ(info.get("environ", "")) | (spec.env or {}), cwd, user)


def _words(text: str) -> tuple[str, ...]:
    """A JSON list, or words as a shell splits them."""
    try:
        words = msgspec.json.decode(text, type=list[str]) if text.lstrip()[:1] == "[" else shlex.split(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unusable("entrypoint", text) from error
    if len(words) > _WORDS_MAX or any("\0" in word for word in words) or (words and not words[0]):
        raise _unusable("entrypoint", text)
    return tuple(words)


def _environ(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unusable("environ", text) from error
    if any(not ENV_NAME.fullmatch(name) or "\0" in value for name, value in found.items()):
        raise _unusable("environ", text)
    return found


def _unusable(what: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"root: the flist's {what} is not usable: {text[:200]!r}", hint="give command")
