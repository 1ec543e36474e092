"""The cluster that a vdisk was cloned from (async): only read, and never taken for empty when it is away."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from g8node.errors import NodeError, Unavailable
from g8node.runtime import logs
from g8node.runtime.resp import ReplyError
from g8node.vdisk.cluster import layout
from g8node.vdisk.cluster.events import Tell
from g8node.vdisk.cluster.member import Command, Member, Patience
from g8node.vdisk.cluster.settings import StorageCluster
from g8node.vdisk.cluster.slotmirror import SlotMirror

log = logs.get("vdisk")

K = TypeVar("K", int, bytes)
_AT_ONCE: Final = 16


class Template(Protocol):
    """`close` at the end. Answers are by item: bytes, None where there is nothing, or Unavailable."""

    async def get(self, fields: Sequence[int]) -> dict[int, bytes | Unavailable | None]: ...

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | Unavailable | None]: ...

    async def close(self) -> None: ...


def template_of(
    cluster: StorageCluster | None, *, key: str, vdisk: str, patience: Patience, tell: Tell
) -> Template:
    """`key`: the hash of the template's vdisk."""
    if cluster is None or not cluster.has_slots:
        return ServersTemplate(cluster, key=key, vdisk=vdisk, patience=patience, tell=tell)
    return SlotMirror(cluster, vdisk=vdisk, key=key, role="template", patience=patience, tell=tell)


class ServersTemplate:
    """A `Template` on single servers. Without a cluster, though there should be one, all is Unavailable."""

    def __init__(
        self, cluster: StorageCluster | None, *, key: str, vdisk: str, patience: Patience, tell: Tell
    ) -> None:
        self._key = key
        servers = cluster.servers if cluster is not None else ()
        self._count = max(1, len(servers))
        self._gone = {number for number, server in enumerate(servers) if server.state == "rip"}
        self._members = {
            number: Member(server, number, role="template", vdisk=vdisk, patience=patience, tell=tell)
            for number, server in enumerate(servers)
            if server.state in ("online", "respread")
        }

    async def get(self, fields: Sequence[int]) -> dict[int, bytes | Unavailable | None]:
        return await self._ask(fields, lambda one: one, lambda part: ("HMGET", self._key, *part))

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | Unavailable | None]:
        return await self._ask(hashes, lambda one: one[0], lambda part: ("MGET", *part))

    async def _ask(
        self, items: Sequence[K], index: Callable[[K], int], command: Callable[[Sequence[K]], Command]
    ) -> dict[K, bytes | Unavailable | None]:
        parts: dict[int, list[K]] = {}
        for item in items:
            parts.setdefault(layout.server_of(index(item), self._count, self._gone), []).append(item)

        async def one(number: int, part: Sequence[K]) -> dict[K, bytes | Unavailable | None]:
            try:
                member = self._members.get(number)
                if member is None:
                    raise Unavailable(
                        f"server {number} of the template's cluster is not in use",
                        hint="is templateStorageClusterID set?",
                    )
                (reply,) = await member.call([command(part)])
                if isinstance(reply, ReplyError) or not isinstance(reply, list):
                    raise Unavailable(f"{member!r}: {str(reply)[:200]}")
                return dict(zip(part, reply, strict=True))
            except Unavailable as error:
                return dict.fromkeys(part, error)

        answers: dict[K, bytes | Unavailable | None] = {}
        for got in await asyncio.gather(*(one(number, part) for number, part in parts.items())):
            answers |= got
        return answers

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members.values()))


class Keeping:
    """What was read from the template and is now written to the vdisk's own servers, beside the reads.

    It saves the next read a trip; when there is too much of it, or it fails, that is all that is lost.
    """

    def __init__(self, template: Template | None) -> None:
        self._template = template
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= _AT_ONCE:
            work.close()
            return
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except NodeError as error:
            log.warning("block of the template is not kept", reason=str(error))

    async def close(self) -> None:
        """When it is done; the template, too."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._template is not None:
            await self._template.close()
