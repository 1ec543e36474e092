"""cgroup.*: groups of the host's processes with limits (async); spec core0-protocol 4.5 on version 2."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.jobs.registry import Context, command
from g8node.node.groups import Subsystem

Name = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}\Z", extra={"kind": "group"}, description="a group"),
]
Numbers = Annotated[
    str, Meta(pattern=r"\A(?:|[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)\Z", extra={"kind": "numbers"})
]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class GroupArgs(Struct, frozen=True):
    subsystem: Subsystem
    name: Name


class TaskArgs(Struct, frozen=True):
    subsystem: Subsystem
    name: Name
    pid: Annotated[int, Meta(ge=1, le=1 << 22)]


@command("cgroup.list", role="reader")
async def list_(ctx: Context) -> dict[str, list[str]]:
    """The groups by subsystem."""
    return await ctx.node.groups.names()


@command("cgroup.ensure", role="admin")
async def ensure(ctx: Context, args: GroupArgs) -> None:
    """Make a group without limits, unless it exists."""
    await ctx.node.groups.ensure(args.subsystem, args.name)


@command("cgroup.remove", role="admin")
async def remove(ctx: Context, args: GroupArgs) -> None:
    """Remove a group; its processes go back to the node's own group."""
    await ctx.node.groups.remove(args.subsystem, args.name)


@command("cgroup.tasks", role="reader")
async def tasks(ctx: Context, args: GroupArgs) -> list[int]:
    """The processes of a group."""
    return await ctx.node.groups.tasks(args.subsystem, args.name)


@command("cgroup.task-add", role="admin")
async def task_add(ctx: Context, args: TaskArgs) -> None:
    """Move a process into a group."""
    await ctx.node.groups.add_task(args.subsystem, args.name, args.pid)


@command("cgroup.task-remove", role="admin")
async def task_remove(ctx: Context, args: TaskArgs) -> None:
    """Move a process of the group back to the node's own group."""
    await ctx.node.groups.remove_task(args.subsystem, args.name, args.pid)


@command("cgroup.reset", role="admin")
async def reset(ctx: Context, args: GroupArgs) -> None:
    """Take the limits away."""
    await ctx.node.groups.reset(args.subsystem, args.name)


class MemoryArgs(Struct, frozen=True):
    name: Name
    mem: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="bytes; 0: leave the limits")] = 0
    swap: Bytes = 0


@command("cgroup.memory.spec", role="admin")
async def memory_spec(ctx: Context, args: MemoryArgs) -> dict[str, int]:
    """Set a group's limits of memory and swap in bytes; what they are then."""
    return await ctx.node.groups.memory(args.name, args.mem, args.swap)


class CpusetArgs(Struct, frozen=True):
    name: Name
    cpus: Annotated[Numbers, Meta(max_length=1024, description="as in 0-2,4; empty: leave them")] = ""
    mems: Annotated[Numbers, Meta(max_length=1024, description="as cpus; memory nodes")] = ""


@command("cgroup.cpuset.spec", role="admin")
async def cpuset_spec(ctx: Context, args: CpusetArgs) -> dict[str, str]:
    """Set the processors and memory nodes of a group; what they are then."""
    return await ctx.node.groups.cpuset(args.name, args.cpus, args.mems)
