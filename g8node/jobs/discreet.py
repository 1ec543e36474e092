"""Arguments as they may be shown to others: without keys and passwords (pure)."""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

_SECRET: Final = frozenset({"identity", "jwt", "password", "preshared_key", "private_key", "token"})
_MARKS: Final = (*(f'"{name}"'.encode() for name in _SECRET), b"password=", b"://")
_SHOWN: Final = "…"
_IN_QUERY: Final = re.compile(r"(password=)[^&#\s\"']+")
_IN_AUTHORITY: Final = re.compile(r"(://[^/@\s:\"']*:)[^/@\s\"']+@")


def arguments(raw: Raw) -> Raw:
    """The same JSON, with `…` for every text that a key of such a name has, at any depth, and in URLs."""
    data = bytes(raw)
    if not any(mark in data for mark in _MARKS):
        return raw
    return Raw(msgspec.json.encode(_without(msgspec.json.decode(data))))


def text(value: str) -> str:
    """Without the passwords of URLs in it."""
    return _IN_AUTHORITY.sub(rf"\1{_SHOWN}@", _IN_QUERY.sub(rf"\1{_SHOWN}", value))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _SHOWN if name in _SECRET and isinstance(each, str) and each else _without(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_without(each) for each in value]
    return text(value) if isinstance(value, str) else value
