"""Chunks as files of a folder: `<folder>/aa/<64 hex digits>`, aa = the first two of them (async).

The layout is that of rfs `dir://` stores, whose flat form `<folder>/<hex>` is read too. A chunk appears by
rename, whole or not at all. `fsync=True` (the Hub: it publishes flists that promise these chunks) syncs
every file and folder of a batch before `put_many` returns; without it (scratch copies that can be fetched
again) a power loss may leave files that fail their id check, which readers treat as absent.
"""

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence

from g8node.errors import NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.linux.guard import off_loop
from g8node.runtime import blocking
from g8node.store.base import STORED_SIZE_MAX, StoreError

_serial = itertools.count()


class LocalStore:
    """One batch is one call in the disk pool."""

    def __init__(self, directory: str, *, fsync: bool = False) -> None:
        self._directory = os.path.abspath(directory)
        self._fsync = fsync

    def path(self, id: ChunkId) -> str:
        """Where the chunk lies."""
        name = id.hex()
        return f"{self._directory}/{name[:2]}/{name}"

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        return await blocking.run("disk", self._get_many, ids)

    @off_loop
    def _get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        return {id: self._get(id) for id in ids}

    def _get(self, id: ChunkId) -> bytes | StoreError:
        for path in (self.path(id), f"{self._directory}/{id.hex()}"):
            try:
                with open(path, "rb", buffering=0) as source:
                    stored = source.read(STORED_SIZE_MAX + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                return Unavailable(f"chunk {id.hex()}: {error}")
            if len(stored) > STORED_SIZE_MAX:
                return Unavailable(f"chunk {id.hex()}: {path} is larger than any chunk")
            return stored
        if not os.path.isdir(self._directory):
            return Unavailable(f"chunk store {self._directory} is not there")
        return NotFound(f"chunk {id.hex()} is not in {self._directory}")

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        await blocking.run("disk", self._put_many, chunks)

    @off_loop
    def _put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        folders: set[str] = set()
        try:
            for id, stored in chunks.items():
                path = self.path(id)
                if os.path.exists(path):
                    continue
                folder = os.path.dirname(path)
                if not os.path.isdir(folder):
                    os.makedirs(folder, exist_ok=True)
                    folders.add(self._directory)
                self._write(path, stored)
                folders.add(folder)
            if self._fsync:
                for folder in folders:
                    _sync_folder(folder)
        except OSError as error:
            raise Unavailable(f"cannot write chunks to {self._directory}: {error}") from error

    def _write(self, path: str, stored: bytes) -> None:
        partial = f"{self._directory}/.{os.getpid()}-{next(_serial)}.part"
        try:
            with open(partial, "xb") as out:
                out.write(stored)
                out.flush()
                if self._fsync:
                    os.fsync(out.fileno())
            os.rename(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await blocking.run("disk", self._missing, ids)

    @off_loop
    def _missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        flat = self._directory
        return {
            id for id in ids if not os.path.exists(self.path(id)) and not os.path.exists(f"{flat}/{id.hex()}")
        }

    async def close(self) -> None:
        """Nothing is kept open."""


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
