"""The gate's password file (pure): one password a line, `role:password`, or bare for the role admin."""

import hmac
from typing import Final, NamedTuple

from g8node.errors import InvalidArgument
from g8node.jobs.model import Caller, RoleName

FILE_BYTES: Final = 16 << 10
_LINES: Final = 64
_ROLES: Final[tuple[RoleName, ...]] = ("admin", "operator", "reader")


class Entry(NamedTuple):
    secret: bytes
    caller: Caller


def parse(text: bytes) -> list[Entry]:
    """The entries of a password file. InvalidArgument names the line, never what is in it.

    A line without a role and a colon is a password of the role admin. Callers
    are named after their role, from the second line of a role on with a number: their jobs are kept apart.
    """
    if len(text) > FILE_BYTES:
        raise InvalidArgument(f"password file: longer than {FILE_BYTES} bytes")
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()):
            continue
        role, secret = _split(line)
        if not secret:
            raise InvalidArgument(f"password file: line {number}: expected a password after the role")
        name = "password" if role == "admin" else f"password:{role}"
        seen[name] = count = seen.get(name, 0) + 1
        entries.append(Entry(secret, Caller(name if count == 1 else f"{name}:{count}", role)))
    if len(entries) > _LINES:
        raise InvalidArgument(f"password file: more than {_LINES} passwords")
    return entries


def _split(line: bytes) -> tuple[RoleName, bytes]:
    word, colon, rest = line.partition(b":")
    for role in _ROLES:
        if colon and word.strip() == role.encode():
            return role, rest.strip()
    return "admin", line


def find(entries: list[Entry], secret: bytes) -> Caller | None:
    """Whose password that is. Takes the same time wherever it stands in the file."""
    found: Caller | None = None
    for entry in entries:
        if hmac.compare_digest(secret, entry.secret) and found is None:
            found = entry.caller
    return found
