"""The configuration of one server in etcd (async): its list of vdisks and what they refer to.

A value that is wrong or gone leaves the last good one in place (event 403), one value at a time; an etcd that
does not answer leaves everything in place (event 401). Only the first load must be right.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from g8node.errors import AlreadyExists, Conflict, InvalidArgument, Unavailable
from g8node.runtime import logs
from g8node.vdisk.cluster import settings
from g8node.vdisk.cluster.etcd import Etcd
from g8node.vdisk.cluster.events import CLUSTER_TIMEOUT, INVALID_CONFIG, Event, Tell
from g8node.vdisk.cluster.settings import (
    Configuration,
    Nbd,
    Static,
    StorageCluster,
    Tlog,
    Vdisk,
    VdiskList,
)

log = logs.get("vdisk")

T = TypeVar("T")
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 15.0
_CHANGES: Final = 10


class EtcdSource:
    """`server`: the id under which the list of vdisks stands. A `Source`."""

    def __init__(self, etcd: Etcd, server: str, *, tell: Tell) -> None:
        self._etcd = etcd
        self._server = server
        self._tell = tell
        self._good: dict[str, Any] = {}
        self._vdisks: dict[str, Vdisk] = {}
        self._complaints: dict[str, str] = {}
        self._keys: list[str] = []
        self._revision = 0
        self._first = True
        self._away = False
        self._last = Configuration({})
        """What was said last, by `load` or by `changes`."""
        self._reading = asyncio.Lock()
        """What was read first is said first: the older one must not be the last word."""

    async def load(self) -> Configuration:
        async with self._reading:
            self._last = await self._read()
            self._first = False
            return self._last

    async def _read(self) -> Configuration:
        """Everything at one revision; the keys that were looked at are those to watch."""
        served_key = settings.served_key(self._server)
        values, revision = await self._etcd.get([served_key])
        served = self._value(values, served_key, VdiskList)
        ids = served.vdisks if served is not None else ()
        keys = [key(one) for one in ids for key in (settings.static_key, settings.nbd_key, settings.tlog_key)]
        values |= (await self._etcd.get(keys, revision))[0]
        parts = {one: self._parts(values, one) for one in ids}
        clusters = _clusters(parts.values())
        cluster_keys = [settings.cluster_key(one) for one in clusters]
        values |= (await self._etcd.get(cluster_keys, revision))[0]
        found = {one: self._value(values, settings.cluster_key(one), StorageCluster) for one in clusters}
        known = {one: cluster for one, cluster in found.items() if cluster is not None}
        vdisks = {one: self._vdisk(one, part, known) for one, part in parts.items()}
        self._keys = [served_key, *keys, *cluster_keys]
        self._revision = revision
        self._vdisks = {one: vdisk for one, vdisk in vdisks.items() if vdisk is not None}
        return Configuration(dict(self._vdisks))

    def _parts(self, values: dict[str, bytes], vdisk: str) -> tuple[Static | None, Nbd | None, Tlog | None]:
        tlog_key = settings.tlog_key(vdisk)
        tlog = self._value(values, tlog_key, Tlog, vdisk) if tlog_key in values else None
        static = self._value(values, settings.static_key(vdisk), Static, vdisk)
        return static, self._value(values, settings.nbd_key(vdisk), Nbd, vdisk), tlog

    def _value(self, values: dict[str, bytes], key: str, type: type[T], vdisk: str = "") -> T | None:
        """The value, else the last good one, else None."""
        try:
            if key not in values:
                raise InvalidArgument(f"{key}: there is no such key")
            self._good[key] = value = settings.parse_value(values[key], key, type)
        except InvalidArgument as error:
            self._complain(key, error, vdisk)
            return self._good.get(key)
        self._complaints.pop(key, None)
        return value

    def _vdisk(
        self,
        vdisk: str,
        parts: tuple[Static | None, Nbd | None, Tlog | None],
        clusters: dict[str, StorageCluster],
    ) -> Vdisk | None:
        static, nbd, tlog = parts
        if static is None or nbd is None:
            return self._vdisks.get(vdisk)
        key = settings.nbd_key(vdisk)
        try:
            return settings.compose(vdisk, static, nbd, tlog, clusters, where=vdisk)
        except InvalidArgument as error:
            self._complain(key, error, vdisk)
            return self._vdisks.get(vdisk)

    def _complain(self, key: str, error: InvalidArgument, vdisk: str) -> None:
        """Once for each thing that is wrong; at the first load it ends the loading."""
        if self._first:
            raise error
        if self._complaints.get(key) != error.message:
            self._complaints[key] = error.message
            log.error("value of etcd is not taken", key=key, reason=error.message)
            data: dict[str, Any] = {"endpoints": self._etcd.endpoints, "key": key}
            self._tell(Event("etcd", INVALID_CONFIG, data | ({"vdiskID": vdisk} if vdisk else {})))

    async def changes(self) -> AsyncIterator[Configuration]:
        pause_s = _RETRY_S
        stale = False
        while True:
            try:
                if not stale:
                    await self._etcd.wait(self._keys, self._revision)
                stale = True
                async with self._reading:
                    last, self._last = self._last, await self._read()
                    found = self._last
            except Unavailable as error:
                stale = True
                self._silent(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
                continue
            stale, self._away, pause_s = False, False, _RETRY_S
            if found != last:
                yield found

    def _silent(self, error: Unavailable) -> None:
        """Told once, until it answers again."""
        if not self._away:
            self._away = True
            log.error("etcd does not answer", reason=error.message)
            self._tell(Event("etcd", CLUSTER_TIMEOUT, self._etcd.endpoints))

    def reload(self) -> None:
        """Nothing to do: it is watched."""

    async def compose(self, vdisk: str, static: Static, nbd: Nbd) -> Vdisk:
        keys = {settings.cluster_key(one): one for one in (nbd.storage, nbd.template, nbd.slave) if one}
        values, _ = await self._etcd.get(list(keys))
        clusters = {
            keys[key]: settings.parse_value(text, key, StorageCluster) for key, text in values.items()
        }
        return settings.compose(vdisk, static, nbd, None, clusters, where=vdisk)

    async def add(self, vdisk: Vdisk) -> None:
        static_key, nbd_key = settings.static_key(vdisk.id), settings.nbd_key(vdisk.id)
        known, _ = await self._etcd.get([static_key, nbd_key])
        if known:
            raise AlreadyExists(f"vdisk {vdisk.id!r} is in etcd")
        texts = {static_key: settings.encode(vdisk.static), nbd_key: settings.encode(vdisk.nbd)}
        await self._change_list(lambda ids: [*ids, vdisk.id], puts=texts)

    async def change(self, vdisk: str, change: Callable[[Static], Static]) -> None:
        """What others change at the same moment is not undone."""
        key = settings.static_key(vdisk)
        for _ in range(_CHANGES):
            values, _ = await self._etcd.get([key])
            if key not in values:
                raise Unavailable(f"etcd: there is no key {key}")
            static = change(settings.parse_value(values[key], key, Static))
            if await self._etcd.swap(key, values[key], {key: settings.encode(static)}):
                return
        raise Conflict(f"etcd: {key} is being changed by others", hint="try again")

    async def remove(self, vdisk: str) -> None:
        keys = [settings.static_key(vdisk), settings.nbd_key(vdisk), settings.tlog_key(vdisk)]
        await self._change_list(lambda ids: [one for one in ids if one != vdisk], deletes=keys)

    async def _change_list(
        self,
        change: Callable[[Sequence[str]], list[str]],
        *,
        puts: dict[str, bytes] | None = None,
        deletes: Sequence[str] = (),
    ) -> None:
        """Another list of vdisks and other values at one moment, if nobody changed the list meanwhile."""
        key = settings.served_key(self._server)
        for _ in range(_CHANGES):
            values, _ = await self._etcd.get([key])
            if key not in values:
                raise Unavailable(f"etcd: there is no key {key}")
            ids = settings.parse_value(values[key], key, VdiskList).vdisks
            text = settings.encode(VdiskList(tuple(change(ids))))
            if await self._etcd.swap(key, values[key], (puts or {}) | {key: text}, deletes):
                return
        raise Conflict(f"etcd: {key} is being changed by others", hint="try again")

    async def close(self) -> None:
        await self._etcd.close()


def _clusters(parts: Iterable[tuple[Static | None, Nbd | None, Tlog | None]]) -> list[str]:
    ids: dict[str, None] = {}
    for _, nbd, _ in parts:
        if nbd is not None:
            ids.update(dict.fromkeys(one for one in (nbd.storage, nbd.template, nbd.slave) if one))
    return list(ids)
