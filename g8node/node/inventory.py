"""What the node is: system, processors, memory, processes, version (async)."""

import errno
import os
from collections.abc import Iterable
from typing import Any, Final

from g8node.errors import InvalidArgument, NodeError, NotFound, PermissionDenied
from g8node.linux import procfs
from g8node.runtime import blocking

UNKNOWN_REVISION: Final = "unknown"


class Inventory:
    """Answers come fresh from the kernel, read in a thread. `version` is the node's own."""

    def __init__(self, *, version: str, revision: str = UNKNOWN_REVISION, dirty: bool = False) -> None:
        self._version = version
        self._revision = revision
        self._dirty = dirty

    def version(self) -> dict[str, Any]:
        """`{branch, revision, dirty}`; our branch is the release."""
        return {"branch": self._version, "revision": self._revision, "dirty": self._dirty}

    def banner(self) -> str:
        """`Version: <branch> @Revision: <revision>`, as core.ping says it."""
        return f"Version: {self._version} @Revision: {self._revision}{' (dirty-repo)' if self._dirty else ''}"

    async def system(self) -> dict[str, Any]:
        return await blocking.run("disk", procfs.system)

    async def cpus(self) -> list[dict[str, Any]]:
        return await blocking.run("disk", procfs.cpus)

    async def memory(self) -> dict[str, Any]:
        return await blocking.run("disk", procfs.memory)

    async def processes(self, pid: int = 0) -> list[dict[str, Any]]:
        """Every process, or the one asked for; what has gone meanwhile is left out."""
        return await blocking.run("disk", _processes, pid)

    async def usage(self, pids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """CPU and memory of each process that is still there."""
        return await blocking.run("disk", _usage, list(pids))

    async def kill(self, pid: int, number: int) -> None:
        """Signal one process. PID 1 and groups are refused."""
        if pid <= 1:
            raise InvalidArgument("invalid PID")
        if not 0 <= number <= 64:
            raise InvalidArgument(f"signal: expected 0..64, not {number}")
        try:
            os.kill(pid, number)
        except (OSError, OverflowError) as error:
            raise _kill_error(error, pid) from error


def _kill_error(error: OSError | OverflowError, pid: int) -> NodeError:
    if isinstance(error, OverflowError):
        return InvalidArgument("invalid PID")
    kind = {errno.ESRCH: NotFound, errno.EPERM: PermissionDenied}.get(error.errno or 0, NodeError)
    return kind(f"process {pid}: {(error.strerror or '').lower()}")


def _processes(pid: int) -> list[dict[str, Any]]:
    rows = (procfs.process(each) for each in ([pid] if pid > 0 else procfs.pids()))
    return [row for row in rows if row is not None]


def _usage(pids: list[int]) -> dict[int, dict[str, Any]]:
    return {pid: usage for pid in pids if (usage := procfs.usage(pid)) is not None}
