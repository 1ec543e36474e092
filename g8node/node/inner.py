"""A container as the commands that are dispatched into it see it (async).

No agent runs inside. What a command asks is looked up from here: files beneath the root of the container's
PID 1, links and sockets in its network namespace, names in its own UTS namespace. The descriptors are taken
once, while PID 1 is known to live, so that a pid that is used again leads nowhere.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from g8node.errors import Conflict
from g8node.linux import mount, namespace, netinfo, procfs, rootpath
from g8node.node import hardware
from g8node.node.container import Container
from g8node.node.files import Files
from g8node.node.innertree import InnerTree
from g8node.node.links import Links
from g8node.node.users import User, resolve
from g8node.runtime import blocking
from g8node.runtime.process import Reaper

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Handles:
    """Descriptors of a container: its root, its namespaces, its folder of /proc."""

    tree: InnerTree
    net: int
    uts: int
    proc: int

    def close(self) -> None:
        self.tree.close()
        for fd in (self.net, self.uts, self.proc):
            os.close(fd)


class Inner:
    """Owns the descriptors until `close`; every method may be called until then."""

    def __init__(self, reaper: Reaper, handles: _Handles) -> None:
        self._handles = handles
        self.files = Files(handles.tree)
        self.links = Links(reaper, self._in_network)

    @classmethod
    async def open(cls, reaper: Reaper, container: Container) -> "Inner":
        """Conflict when the container ends meanwhile."""
        handles = await blocking.run("path", _open, container.pid, container.base)
        if container.child is None or not container.child.running:
            await blocking.run("path", handles.close)
            raise Conflict(f"container {container.id} ended")
        return cls(reaper, handles)

    async def close(self) -> None:
        await self.files.close_all()
        await blocking.run("path", self._handles.close)

    async def renew(self, pid: int) -> None:
        """The container's root was replaced under its PID 1."""
        await blocking.run("path", lambda: self._handles.tree.renew(rootpath.open_process_root(pid)))

    async def system(self, processes: int) -> dict[str, Any]:
        """info.os with the container's own name and release; `processes` is how many it has."""
        return await blocking.run("path", self._system, processes)

    async def text(self, path: str) -> str:
        """The first MiB of a file inside; empty when there is no such regular file."""
        return await blocking.run("path", self._handles.tree.text, path)

    async def user(self, wanted: str) -> User:
        """Who that is in here now. NotFound."""
        return await blocking.run("path", self._user, wanted)

    def _user(self, wanted: str) -> User:
        tree = self._handles.tree
        return resolve(wanted, tree.text("/etc/passwd"), tree.text("/etc/group"))

    async def nics(self) -> list[dict[str, Any]]:
        """info.nic."""
        return await blocking.run("disk", self._in_network, _nics)

    async def ports(self, pids: Mapping[int, int]) -> list[dict[str, Any]]:
        """info.port; `pids` are its processes, host pid -> inner pid."""
        return await blocking.run("disk", self._ports, pids)

    async def disks(self) -> list[dict[str, Any]]:
        """info.disk."""
        return await blocking.run("disk", self._disks)

    def _in_network(self, fn: Callable[[], T]) -> T:
        return namespace.call_in([self._handles.net], fn)

    def _system(self, processes: int) -> dict[str, Any]:
        tree = self._handles.tree
        name = namespace.call_in([self._handles.uts], os.uname).nodename
        release = procfs.os_release(tree.text("/etc/os-release") or tree.text("/usr/lib/os-release"))
        return procfs.system() | release | {"hostname": name, "procs": processes}

    def _ports(self, pids: Mapping[int, int]) -> list[dict[str, Any]]:
        return netinfo.ports(net=f"/proc/self/fd/{self._handles.proc}/net", pids=pids)

    def _disks(self) -> list[dict[str, Any]]:
        return hardware.mounted_disks(f"/proc/self/fd/{self._handles.proc}/mountinfo")


def _open(pid: int, base: int) -> _Handles:
    opened: list[int] = []
    try:
        for name in ("ns/net", "ns/uts"):
            opened.append(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        opened.append(os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        tree = InnerTree(rootpath.open_process_root(pid), base)
    except BaseException as error:
        for fd in opened:
            os.close(fd)
        if isinstance(error, FileNotFoundError | ProcessLookupError | PermissionError):
            raise Conflict("the container ended") from error
        raise
    net, uts, proc = opened
    return _Handles(tree, net, uts, proc)


def _nics() -> list[dict[str, Any]]:
    """The sysfs of the namespace we are in; the container's own may be anything."""
    sysfs = mount.detached("sysfs")
    try:
        return netinfo.nics(f"/proc/self/fd/{sysfs}/class/net")
    finally:
        os.close(sysfs)


async def close_inner(opening: "asyncio.Task[Inner] | None") -> None:
    """When it has been opened, or will be."""
    if opening is not None:
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
