"""Where the configuration of vdisks on clusters comes from (async): a file here, etcd in `etcdsource`."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from g8node.errors import Conflict, InvalidArgument, NodeError, Unavailable
from g8node.runtime import blocking, logs
from g8node.vdisk.cluster.events import INVALID_CONFIG, Event, Tell
from g8node.vdisk.cluster.settings import (
    TEXT_BYTES_MAX,
    Configuration,
    Nbd,
    Static,
    Vdisk,
    host_port,
    parse_file,
)

log = logs.get("vdisk")

_LOOK_S: Final = 1.0
_RECENT_S: Final = 2.0
"""Of a file that changed so shortly before it was read, the time does not tell whether it changed again."""
_UNSURE: Final = (0, 0, 0)


class Source(Protocol):
    """`load` once, then iterate over `changes`."""

    async def load(self) -> Configuration:
        """What it says now. InvalidArgument, Unavailable."""

    def changes(self) -> AsyncIterator[Configuration]:
        """Whatever is said later, for ever. What is wrong is told, and what was good before stays."""

    def reload(self) -> None:
        """Look now (SIGHUP)."""

    async def compose(self, vdisk: str, static: Static, nbd: Nbd) -> Vdisk:
        """A vdisk that could be added, with its clusters. InvalidArgument, Unavailable."""

    async def add(self, vdisk: Vdisk) -> None:
        """Have it in the list. Conflict where that is for others to do; AlreadyExists."""

    async def change(self, vdisk: str, change: Callable[[Static], Static]) -> None:
        """Have it say something else of a vdisk. Conflict where that is for others to do."""

    async def remove(self, vdisk: str) -> None:
        """Have it in the list no more; nothing where that is for others to do."""

    async def close(self) -> None: ...


class FileSource:
    """YAML, or TOML when the name ends so. Looked at every second."""

    def __init__(self, path: str, *, tell: Tell, look_s: float = _LOOK_S) -> None:
        self._path = path
        self._tell = tell
        self._look_s = look_s
        self._wake = asyncio.Event()
        self._seen: tuple[int, int, int] | None = None
        self._text = b""

    async def load(self) -> Configuration:
        try:
            self._seen, self._text = await blocking.run("disk", _read, self._path)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error
        return parse_file(self._text, self._path)

    async def changes(self) -> AsyncIterator[Configuration]:
        complaint = ""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), self._look_s)
            except TimeoutError:
                if await blocking.run("disk", _look, self._path) == self._seen:
                    continue
            self._wake.clear()
            before = self._text
            try:
                found = await self.load()
            except NodeError as error:
                if str(error) != complaint:
                    log.error("configuration is not taken", file=self._path, reason=str(error))
                    data = {"endpoints": [self._path], "key": error.message}
                    self._tell(Event("etcd", INVALID_CONFIG, data))
                complaint = str(error)
                continue
            complaint = ""
            if self._text != before:
                log.info("configuration is taken", file=self._path)
                yield found

    def reload(self) -> None:
        self._wake.set()

    async def compose(self, vdisk: str, static: Static, nbd: Nbd) -> Vdisk:
        raise self._refusal(vdisk)

    async def add(self, vdisk: Vdisk) -> None:
        raise self._refusal(vdisk.id)

    def _refusal(self, vdisk: str) -> Conflict:
        """A file belongs to the one who edits it: its comments and order would be lost."""
        return Conflict(f"vdisk {vdisk!r} is not in {self._path}", hint="add it to the file first")

    async def change(self, vdisk: str, change: Callable[[Static], Static]) -> None:
        raise Conflict(f"vdisk {vdisk!r} is in {self._path}", hint="change it in the file")

    async def remove(self, vdisk: str) -> None:
        """Whoever edits the file does that."""

    async def close(self) -> None:
        """Nothing is open."""


def _look(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> tuple[tuple[int, int, int] | None, bytes]:
    seen = _look(path)
    if seen is not None and seen[2] / 1e9 > time.time() - _RECENT_S:
        seen = _UNSURE
    with open(path, "rb") as file:
        return seen, file.read(TEXT_BYTES_MAX + 1)


def endpoints_of(text: str) -> list[str]:
    """The URLs of `host:port,http://host:port,…`; none when it is no such list, but a path."""
    urls = []
    for word in text.split(","):
        scheme, _, rest = word.strip().rpartition("://")
        try:
            host, port = host_port(rest, "config")
        except InvalidArgument:
            return []
        if "/" in host or scheme not in ("", "http", "https"):
            return []
        urls.append(f"{scheme or 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
    return urls
