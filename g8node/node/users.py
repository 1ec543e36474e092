"""Who a container's program runs as, by the container's own tables of users (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from g8node.errors import NotFound

ID_MAX: Final = 2**32 - 2
_GROUPS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class User:
    """`home` is empty when the tables do not know the user."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = ""


ROOT: Final = User()


def resolve(wanted: str, passwd: str, group: str) -> User:
    """`name` or `uid`, and `:group` or `:gid`; without the latter the user's own group and those he is in.

    NotFound for a name that the tables do not have.
    """
    if not wanted:
        return ROOT
    name, colon, group_name = wanted.partition(":")
    row = next((row for row in _rows(passwd, 6) if name in (row[0], row[2])), None)
    uid = _number(row[2] if row is not None else name)
    if uid is None:
        raise NotFound(f"user: the container has no user {name!r}")
    home = row[5] if row is not None and row[5].startswith("/") else ""
    if colon:
        return User(uid, _group(group_name, group), (), home)
    gid = (_number(row[3]) if row is not None else 0) or 0
    members = (each for each in _rows(group, 4) if row is not None and row[0] in each[3].split(","))
    ids = [number for each in members if (number := _number(each[2])) is not None]
    return User(uid, gid, tuple(dict.fromkeys(ids))[:_GROUPS_MAX], home)


def _group(name: str, table: str) -> int:
    row = next((row for row in _rows(table, 3) if name in (row[0], row[2])), None)
    gid = _number(row[2] if row is not None else name)
    if gid is None:
        raise NotFound(f"user: the container has no group {name!r}")
    return gid


def _rows(table: str, least: int) -> Iterator[list[str]]:
    for line in table.splitlines():
        row = line.split(":")
        if len(row) >= least and row[0] and "\0" not in line:
            yield row


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= ID_MAX else None
