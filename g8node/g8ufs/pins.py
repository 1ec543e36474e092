"""Which cached chunks are never evicted (blocking): sets of chunk prefixes by name, kept in a folder.

A pin is a file `<folder>/<name>` of u64 prefixes of chunk ids, native order, ascending; names are the hex
digests of flists. A damaged file is dropped with a warning: its chunks may then go, and are fetched again.
"""

import contextlib
import os
import re
from array import array
from collections.abc import Iterable
from typing import Final

from g8node.linux.guard import off_loop
from g8node.runtime import logs

log = logs.get("g8ufs.pins")

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class Pins:
    """Not thread-safe: the segment log calls it under its lock."""

    @off_loop
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sets: dict[str, frozenset[int]] = {}
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            if (found := _read(f"{folder}/{name}")) is not None and _NAME.fullmatch(name):
                self._sets[name] = found
            else:
                log.warning("dropping a damaged pin", name=name)
                os.unlink(f"{folder}/{name}")
        self._all = self._united()

    def names(self) -> list[str]:
        return sorted(self._sets)

    def __contains__(self, prefix: int) -> bool:
        return prefix in self._all

    def __len__(self) -> int:
        return len(self._all)

    @off_loop
    def add(self, name: str, prefixes: Iterable[int]) -> None:
        """Add or replace; on disk first, so that an error changes nothing."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"name of a pin: expected 64 hex digits, got {name!r}")
        wanted = frozenset(prefixes)
        with open(f"{self._folder}/.{name}", "wb") as out:
            out.write(array("Q", sorted(wanted)).tobytes())
        os.rename(f"{self._folder}/.{name}", f"{self._folder}/{name}")
        self._sets[name] = wanted
        self._all = self._united()

    @off_loop
    def remove(self, name: str) -> bool:
        """False when there is none."""
        if self._sets.pop(name, None) is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._folder}/{name}")
        self._all = self._united()
        return True

    def _united(self) -> frozenset[int]:
        return frozenset().union(*self._sets.values())


def _read(path: str) -> frozenset[int] | None:
    with open(path, "rb") as source:
        data = source.read()
    if len(data) % 8:
        return None
    return frozenset(array("Q", data))
