"""Owner of the control groups that an operator makes for processes of the host (async).

The commands are version 1's: a group belongs to a subsystem. Version 2 has one tree, so a name is one group,
and the subsystems it was made for are remembered here. Without version 2 everything answers Unavailable.
A container that is put into a group has its own group inside, which cannot be moved: the group stays as long.
"""

import asyncio
import contextlib
import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal, ParamSpec, TypeVar

from g8node.errors import Conflict, Exhausted, InvalidArgument, NodeError, NotFound, Unavailable
from g8node.linux import cgroup, cgroup_limits
from g8node.runtime import blocking

P = ParamSpec("P")
T = TypeVar("T")

Subsystem = Literal["cpuset", "memory"]

MAX_GROUPS: Final = 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}", re.ASCII)
_LIST: Final = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?){0,255}", re.ASCII)


class Groups:
    """The groups by name, one operation at a time."""

    def __init__(self) -> None:
        self._parent = "g8-host" if os.getpid() == 1 else f"g8-host-{os.getpid()}"
        self._subsystems: dict[str, set[Subsystem]] = {}
        self._containers: Counter[str] = Counter()
        self._prepared = False
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Members go home, groups go."""
        if self._prepared:
            for name in list(self._subsystems):
                with contextlib.suppress(OSError):
                    await blocking.run("disk", cgroup_limits.remove, self._parent, name)
            with contextlib.suppress(OSError):
                await blocking.run("disk", cgroup.remove, self._parent)

    async def names(self) -> dict[str, list[str]]:
        """The names by subsystem; subsystems without a group are left out."""
        async with self._lock:
            await self._ready()
            found: dict[str, list[str]] = {}
            for name in sorted(self._subsystems):
                for subsystem in sorted(self._subsystems[name]):
                    found.setdefault(subsystem, []).append(name)
            return found

    async def ensure(self, subsystem: Subsystem, name: str) -> None:
        """Make the group, without limits, unless it exists."""
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"name: expected letters, digits and _.:@-, at most 64, not {name[:80]!r}")
        async with self._lock:
            await self._ready()
            if subsystem in self._subsystems.get(name, ()):
                return
            if name not in self._subsystems and len(self._subsystems) >= MAX_GROUPS:
                raise Exhausted(f"{MAX_GROUPS} groups exist")
            await self._do(cgroup_limits.create, self._parent, name)
            self._subsystems.setdefault(name, set()).add(subsystem)
            await self._reset(subsystem, name)

    async def remove(self, subsystem: Subsystem, name: str) -> None:
        """Its members go home when it was the name's last subsystem; a group that is gone is removed.

        Conflict while a container is in it.
        """
        async with self._lock:
            await self._ready()
            subsystems = self._subsystems.get(name, set())
            if subsystem not in subsystems:
                return
            if self._containers[name]:
                raise Conflict(f"name: {name} has {self._containers[name]} containers in it")
            if len(subsystems) == 1:
                await self._do(cgroup_limits.remove, self._parent, name)
                del self._subsystems[name]
            else:
                await self._reset(subsystem, name)
                subsystems.discard(subsystem)

    async def enter(self, groups: Sequence[Sequence[str]]) -> str:
        """The name of the group for a container that is to be in all of these; until `leave` it stays.

        NotFound, InvalidArgument: not the subsystems of one name; Unavailable.
        """
        names = {name for _, name in groups}
        if len(names) != 1:
            raise InvalidArgument(
                f"cgroups: expected one name, got {', '.join(sorted(names))[:200]}",
                hint="in version 2 a process is in one group; one group may have both subsystems",
            )
        async with self._lock:
            for subsystem, name in groups:
                await self._ready()
                if subsystem not in self._subsystems.get(name, ()):
                    raise NotFound(f"cgroups: {subsystem}/{name} does not exist", hint="see cgroup.ensure")
            (name,) = names
            self._containers[name] += 1
            return name

    def path(self, name: str) -> str:
        """Of a group, below the mount point."""
        return cgroup_limits.path(self._parent, name)

    def paths(self) -> list[str]:
        """Of all groups, below the mount point."""
        return [self.path(name) for name in self._subsystems]

    def leave(self, name: str) -> None:
        """Nothing is left of a container that entered."""
        self._containers[name] -= 1

    async def tasks(self, subsystem: Subsystem, name: str) -> list[int]:
        async with self._lock:
            await self._existing(subsystem, name)
            return await self._do(cgroup_limits.tasks, self._parent, name)

    async def add_task(self, subsystem: Subsystem, name: str, pid: int) -> None:
        """Version 2 has no process in two groups: it leaves the one it was in."""
        if pid in (1, os.getpid()):
            raise InvalidArgument(f"pid: {pid} is the node itself")
        async with self._lock:
            await self._existing(subsystem, name)
            await self._do(cgroup_limits.join, self._parent, name, pid)

    async def remove_task(self, subsystem: Subsystem, name: str, pid: int) -> None:
        """Back to the node's own group; NotFound for a process that is no member."""
        async with self._lock:
            await self._existing(subsystem, name)
            if not await self._do(cgroup_limits.leave, self._parent, name, pid):
                raise NotFound(f"process {pid} is not in the cgroup")

    async def reset(self, subsystem: Subsystem, name: str) -> None:
        """No limits."""
        async with self._lock:
            await self._existing(subsystem, name)
            await self._reset(subsystem, name)

    async def memory(self, name: str, limit_bytes: int, swap_bytes: int) -> dict[str, int]:
        """Set the limits unless limit_bytes is 0; what they are then."""
        async with self._lock:
            await self._existing("memory", name)
            if limit_bytes:
                await self._do(cgroup_limits.set_memory, self._parent, name, limit_bytes, swap_bytes)
            mem, swap = await self._do(cgroup_limits.memory, self._parent, name)
            return {"mem": mem, "swap": swap}

    async def cpuset(self, name: str, cpus: str, mems: str) -> dict[str, str]:
        """Set what is not empty, e.g. `0-2,4`; what the group may use then."""
        for field, text in (("cpus", cpus), ("mems", mems)):
            if text and not _LIST.fullmatch(text):
                raise InvalidArgument(f"{field}: expected numbers as in 0-2,4, not {text[:80]!r}")
        async with self._lock:
            await self._existing("cpuset", name)
            await self._do(cgroup_limits.set_cpuset, self._parent, name, cpus or None, mems or None)
            shown = await self._do(cgroup_limits.cpuset, self._parent, name)
            return {"cpus": shown[0], "mems": shown[1]}

    async def _reset(self, subsystem: Subsystem, name: str) -> None:
        if subsystem == "memory":
            await self._do(cgroup_limits.set_memory, self._parent, name, None, None)
        else:
            await self._do(cgroup_limits.set_cpuset, self._parent, name, "", "")

    async def _existing(self, subsystem: Subsystem, name: str) -> None:
        await self._ready()
        if subsystem not in self._subsystems.get(name, ()):
            raise NotFound("cgroup does not exist")

    async def _ready(self) -> None:
        """Unavailable without control groups of version 2."""
        if self._prepared:
            return
        missing = {"cpuset", "memory"} - await blocking.run("disk", cgroup.controllers)
        if missing:
            raise Unavailable(
                f"no control groups of version 2 with {' and '.join(sorted(missing))}",
                hint=f"mount cgroup2 on {cgroup.MOUNT}",
            )
        await self._do(cgroup.delegate, self._parent)
        self._prepared = True

    async def _do(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await blocking.run("disk", fn, *args, **kwargs)
        except OSError as error:
            raise _node_error(error) from error


def _node_error(error: OSError) -> NodeError:
    text = f"cgroup: {(error.strerror or '').lower()}"
    if error.errno == errno.ESRCH:
        return NotFound("process does not exist")
    if error.errno == errno.ENOENT:
        return NotFound("cgroup does not exist")
    if error.errno in (errno.EINVAL, errno.ERANGE, errno.EOVERFLOW):
        return InvalidArgument(text)
    return Unavailable(text)
