"""The profiles that a node has: recorded here, or found beside the flist (async).

A folder of files, each named by the digest of its flist. What lies beside an flist (`<flist>.profile`, as a
Hub serves it) is looked for while the flist is being mounted, once, unless there is one here already.
"""

import asyncio
import contextlib
import os
from typing import Final

from g8node.errors import InvalidArgument, NodeError, NotFound
from g8node.g8ufs.downloads import Downloads, beside
from g8node.g8ufs.profile import PROFILE_BYTES_MAX, SUFFIX, Profile, format_profile, parse_profile
from g8node.linux.guard import off_loop
from g8node.runtime import blocking, logs

log = logs.get("g8ufs.profiles")

_LOOK_S: Final = 5.0
"""By then a start has read most of what it reads."""


class Profiles:
    """Files below `folder`; downloads are kept in `downloads`."""

    def __init__(self, folder: str, downloads: str) -> None:
        self._folder = folder
        self._downloads = Downloads(downloads, size_max_bytes=PROFILE_BYTES_MAX)
        self._looking: dict[str, asyncio.Task[None]] = {}

    def look(self, flist: str, digest: str) -> None:
        """Find out, meanwhile, whether the flist has a profile beside it; `load` waits for that."""
        if digest not in self._looking:
            task = self._looking[digest] = asyncio.create_task(
                self._look(flist, digest), name="g8ufs-profiles"
            )
            task.add_done_callback(lambda _: self._looking.pop(digest, None))

    async def _look(self, flist: str, digest: str) -> None:
        try:
            if await blocking.run("disk", os.path.exists, self._path(digest)):
                return
            async with asyncio.timeout(_LOOK_S):
                path = await self._downloads.fetch(beside(flist, SUFFIX))
            profile = parse_profile(await blocking.run("disk", _read, path))
            if profile.digest == digest:
                await self.save(profile)
        except NotFound:
            return
        except (NodeError, OSError, TimeoutError) as error:
            log.info("no profile from beside an flist", flist=flist, error=str(error) or "too slow")

    async def load(self, digest: str, slots: int) -> Profile | None:
        """None: there is no profile, or none that fits an image of so many slots."""
        if task := self._looking.get(digest):
            await asyncio.wait([task])
        try:
            profile = parse_profile(await blocking.run("disk", _read, self._path(digest)))
        except (OSError, InvalidArgument):
            return None
        fits = profile.digest == digest and all(slot < slots for slot in profile.order)
        return profile if fits else None

    async def save(self, profile: Profile) -> None:
        """Whole or not at all. A disk that fails leaves none."""
        with contextlib.suppress(OSError):
            await blocking.run("disk", _write, self._path(profile.digest), format_profile(profile))

    def _path(self, digest: str) -> str:
        return f"{self._folder}/{digest}"

    async def close(self) -> None:
        """Stop looking."""
        for task in (tasks := list(self._looking.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@off_loop
def _read(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read(PROFILE_BYTES_MAX + 1)


@off_loop
def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.part", "wb") as out:
        out.write(data)
    os.rename(f"{path}.part", path)
