"""Contexts: nodes with names, in `~/.config/g8/contexts.json` (blocking).

The file has mode 0600, since it may hold secrets.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from g8node.errors import InvalidArgument

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SIZE_MAX: Final = 1 << 20


class Context(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How to reach one node. Either `password` or `password_file`; files are absolute paths."""

    node: str
    password: str = ""
    password_file: str = ""
    tls: bool = False
    cacert: str = ""
    cert: str = ""
    key: str = ""
    insecure: bool = False


class Contexts(msgspec.Struct, forbid_unknown_fields=True):
    """All of them, and the one that is used when none is named."""

    current: str = ""
    contexts: dict[str, Context] = {}

    def get(self, name: str) -> Context:
        """InvalidArgument when there is none of that name."""
        if name not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "there are none yet"
            raise InvalidArgument(f"no context {name!r}", hint=f"{known}; g8 context add")
        return self.contexts[name]


def file() -> Path:
    """Where they are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "g8/contexts.json"


def load() -> Contexts:
    """InvalidArgument when the file makes no sense, or others may read it."""
    path = file()
    try:
        with path.open("rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            data = source.read(_SIZE_MAX)
    except FileNotFoundError:
        return Contexts()
    if mode & 0o077:
        raise InvalidArgument(f"{path}: others may read it", hint=f"chmod 600 {path}")
    try:
        return msgspec.json.decode(data, type=Contexts)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path}: {error}") from None


def save(contexts: Contexts) -> None:
    """Replace the file at once."""
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, part = tempfile.mkstemp(prefix=".contexts.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(msgspec.json.format(msgspec.json.encode(contexts)) + b"\n")
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def check_name(name: str) -> str:
    """InvalidArgument for what is no name."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r}: a context's name has letters, digits, dots and dashes")
    return name
