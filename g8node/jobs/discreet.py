"""Arguments as they may be shown to others: without keys and passwords (pure)."""

from typing import Any, Final

import msgspec
from msgspec import Raw

_SECRET: Final = frozenset({"identity", "jwt", "password", "preshared_key", "private_key", "token"})
_MARKS: Final = tuple(f'"{name}"'.encode() for name in _SECRET)
_SHOWN: Final = "…"


def arguments(raw: Raw) -> Raw:
    """The same JSON, with `…` for every text that a key of such a name has, at any depth."""
    data = bytes(raw)
    if not any(mark in data for mark in _MARKS):
        return raw
    return Raw(msgspec.json.encode(_without(msgspec.json.decode(data))))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _SHOWN if name in _SECRET and isinstance(each, str) and each else _without(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_without(each) for each in value]
    return value
