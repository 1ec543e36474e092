"""The process before us, if it was killed while it waited for itself (async).

A thread of it may wait for the lock of a page (FUSE_NOTIFY_STORE) whose read only that process would have
answered. No signal ends such a wait, and while it lasts the process keeps its /dev/fuse, hence its session,
and with it the lock of the chunk cache. Aborting the session ends all of them.
"""

import os
from typing import Final

from g8node.errors import Unavailable
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.segments import owner
from g8node.linux import fusectl, pidfd, procfs
from g8node.linux.guard import off_loop
from g8node.runtime import blocking, logs

log = logs.get("g8ufs.mounts")

_END_S: Final = 30.0


async def open_cache(directory: str, budget_bytes: int, session: str) -> ChunkCache:
    """The cache, also from a dead process that cannot let go of it; `session` is where that mounted its own.

    Raises Unavailable when a process that lives uses it.
    """
    try:
        return await ChunkCache.open(directory, budget_bytes)
    except Unavailable:
        if not await blocking.run("path", _end, directory, session):
            raise
    return await ChunkCache.open(directory, budget_bytes)


@off_loop
def _end(directory: str, session: str) -> bool:
    """Whether a dead owner of the cache has ended, maybe just now by itself."""
    pid = owner(directory)
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # nobody says who
        return False
    try:
        if procfs.stat(pid).state != "Z":
            return False
        log.warning("ending what a dead process waits for", pid=pid)
        fusectl.abort(fusectl.device_of(session)[1])
        return pidfd.ended(fd, _END_S)
    except FileNotFoundError:  # its session is not of this mount namespace
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)
