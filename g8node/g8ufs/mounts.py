"""The owner of mounted flists: flist in, read-only mount out (async).

    attach: download -> prepare the image (once per digest) -> entry in the FUSE session (once per digest and
    store) -> EROFS mount of the entry below `run/g8ufs-images` -> bind mount of that at the target

The EROFS is mounted once and bound to every target, so that all containers of one flist share its page
cache. The only module that touches paths of the session, always in the "path" pool (R5).

Which chunk stores are asked: `sources`.

When the session dies (aborted, a bug), `run` raises, and its next call mounts a new one, and every image and
target again. What stands on a mount of before (an overlay, an open file) fails for good: `on_lost` tells.
"""

import asyncio
import builtins
import functools
import importlib
import os
import posixpath
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

from g8node.config import Fuse
from g8node.errors import AlreadyExists, InvalidArgument, NodeError, NotFound, PermissionDenied, Unavailable
from g8node.flist.image import ImageRef, prepare
from g8node.flist.plan import ImagePlan
from g8node.g8ufs import kept, kernelmount, predecessor, prefetch
from g8node.g8ufs.ahead import Ahead
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.counters import Reads
from g8node.g8ufs.downloads import Downloads
from g8node.g8ufs.fetch import Fetcher
from g8node.g8ufs.imagefile import ImageFile
from g8node.g8ufs.profile import format_profile
from g8node.g8ufs.profiles import Profiles
from g8node.g8ufs.readaround import ReadAround
from g8node.g8ufs.session import Entry, Session
from g8node.g8ufs.sources import shown, sources
from g8node.g8ufs.treefile import TreeFile
from g8node.g8ufs.trust import Trust
from g8node.linux.mount import known
from g8node.runtime import blocking, logs
from g8node.store.base import Store
from g8node.store.memory import MemoryStore
from g8node.store.stores import Stores
from g8node.wire.router import Router, format_router

log = logs.get("g8ufs.mounts")

_PRUNE_EVERY_S: Final = 60.0
_KEPT_SHARE: Final = 4
"""Images, flists and profiles may take this part of the cache's budget; the rest is for chunks."""
_PREPARING: Final = 1
"""Images built at once: the cpu pool must keep a thread for decoding chunks that readers wait for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One attached flist."""

    target: str
    flist: str
    digest: str
    storage: str
    """Addresses of the stores, in the order in which they are asked, without passwords."""
    info: dict[str, str]
    """The flist's free metadata (`entrypoint`, `environ`, ...)."""
    nosuid: bool = False


@dataclass(slots=True)
class _Image:
    """One EROFS mount, shared by all targets of the same flist and store."""

    ref: ImageRef
    key: tuple[str, str]
    place: str
    router: Router | None
    store: Store
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    counters: Reads = field(default_factory=Reads)
    users: int = 0
    ready: "asyncio.Task[None] | None" = None


class Mounts:
    """All-or-nothing attach and detach; the calls may come concurrently."""

    def __init__(self, *, run: str, cache: str, config: Fuse | None = None, storage: str = "") -> None:
        """`run`: the session (`g8ufs`) and the images lie below it; `cache`: survives a restart."""
        self._config = config or Fuse()
        self._storage = storage
        self.stores = Stores()
        self._session = Session(f"{run}/g8ufs")
        self._images_at = f"{os.path.abspath(run)}/g8ufs-images"
        self._prepared_at = f"{cache}/images"
        self._chunks_at = f"{cache}/chunks"
        self._kept_at = (self._prepared_at, f"{cache}/flists", f"{cache}/profiles")
        self._pruned_s = float("-inf")
        self._tree = False
        self._past = Reads()
        self._downloads = Downloads(f"{cache}/flists", size_max_bytes=self._config.flist_bytes)
        self._profiles = Profiles(f"{cache}/profiles", f"{cache}/flists")
        self._trust = Trust(self._config, self._downloads)
        self._cache: ChunkCache | None = None
        self._fetcher: Fetcher | None = None
        self._preparing = asyncio.Semaphore(_PREPARING)
        self._flights: dict[str, asyncio.Task[ImageRef]] = {}
        self._images: dict[tuple[str, str], _Image] = {}
        self._targets: dict[str, tuple[Mounted, _Image] | None] = {}
        self._serial = 0
        self._tasks: set[asyncio.Future[None]] = set()
        self._reviving = asyncio.Lock()
        self.on_lost: Callable[[Sequence[str]], None] = lambda _: None
        """Called with the targets whose mounts were lost and made again."""

    async def start(self) -> None:
        """Open the cache and mount the session. Unavailable or Conflict say what is in the way."""
        view = self._config.view
        self._tree = view == "tree" or (view == "auto" and not await blocking.run("disk", known, "erofs"))
        place = self._session.mountpoint
        self._cache = await predecessor.open_cache(self._chunks_at, self._config.cache_bytes, place)
        # A fetch ends before the reads that wait for it, so that they can say why.
        limit_s = self._config.read_timeout_s * 0.9
        self._fetcher = Fetcher(self._cache, budget_bytes=self._config.fetch_bytes, time_limit_s=limit_s)
        try:
            # The cache's lock says that no other process is alive here: what is mounted is a dead one's.
            await blocking.run("path", kernelmount.sweep, self._session.mountpoint, self._images_at)
            await self._session.start()
        except BaseException:
            await self._cache.close()
            raise
        # Most nodes need it for their first flist, which should not wait for it.
        self._background(blocking.run("disk", _import_http))

    async def attach(self, flist: str, target: str, *, storage: str = "", nosuid: bool = False) -> Mounted:
        """Mount the flist read-only at the folder `target`, which is made when it does not exist.

        Raises what is wrong with the flist (InvalidArgument), its place (NotFound, Unavailable) or the target
        (AlreadyExists). Cancelling undoes it.
        """
        target = _absolute(target)
        self._session.check()
        if target in self._targets:
            raise AlreadyExists(f"an flist is attached at {target}")
        self._targets[target] = None
        try:
            async with AsyncExitStack() as undo:
                ref = await self._prepared(flist)
                self._profiles.look(flist, ref.digest)
                router = await sources(flist, storage or self._storage, ref)
                image = await self._acquire(ref, router)
                undo.push_async_callback(self._release, image)
                await _bound(image.place, target, nosuid)
                undo.push_async_callback(blocking.run, "path", kernelmount.unmount, target)
                if self._images.get(image.key) is not image:
                    raise Unavailable(f"flist {flist}: the FUSE session died meanwhile")
                mounted = Mounted(target, flist, ref.digest, shown(router), dict(ref.plan.info), nosuid)
                self._targets[target] = (mounted, image)
                undo.pop_all()
                return mounted
        except BaseException:
            del self._targets[target]
            raise

    async def detach(self, target: str) -> None:
        """Unmount; the flist's entry goes with its last target. NotFound when nothing is attached there.

        A target that is still in use is detached lazily: it is gone from the tree, and the kernel lets go of
        it with its last user.
        """
        target = _absolute(target)
        async with self._reviving:
            found = self._targets.get(target)
            if found is None:
                raise NotFound(f"no flist is attached at {target}")
            self._targets[target] = None
        try:
            await _finish(self._detach(target, found[1]))
        finally:
            self._targets.pop(target, None)

    async def _detach(self, target: str, image: _Image) -> None:
        await blocking.run("path", kernelmount.unmount, target)
        await self._release(image)

    async def run(self) -> None:
        """Returns when the session was closed; Unavailable when it died: call again, it is mounted anew."""
        if not self._session.running:
            await self._revive()
        await self._session.ended()

    async def _revive(self) -> None:
        """A new session, and on it everything that is attached."""
        async with self._reviving:
            self._images = {}  # whoever attaches from now on makes an image on the new session
            await self._session.close()
            session = Session(self._session.mountpoint)
            await session.start()
            self._session = session
            lost = [found for found in self._targets.values() if found]
            for mounted, image in lost:
                await _finish(self._remount(mounted, image))
        targets = [mounted.target for mounted, _ in lost]
        log.warning("the FUSE session is mounted again", lost=targets)
        self.on_lost(targets)

    async def _remount(self, mounted: Mounted, dead: _Image) -> None:
        """Put a target on a fresh image; when that fails it stays as it is, for its owner to detach."""
        try:
            image = await self._acquire(dead.ref, dead.router)
        except (NodeError, OSError) as error:
            log.error("a mount is lost", target=mounted.target, flist=mounted.flist, error=str(error))
            return
        self._targets[mounted.target] = (mounted, image)
        try:
            await blocking.run("path", kernelmount.unmount, mounted.target)
            await _bound(image.place, mounted.target, mounted.nosuid)
        except OSError as error:
            log.error("a mount is lost", target=mounted.target, flist=mounted.flist, error=str(error))
        await self._release(dead)

    async def list(self) -> list[Mounted]:
        """What is attached, oldest first."""
        return [found[0] for found in self._targets.values() if found]

    async def shown(self) -> builtins.list[dict[str, Any]]:
        """`g8ufs.list`: one row for each target; targets of one image share its counters."""
        return [
            {
                "target": mounted.target,
                "flist": mounted.flist,
                "digest": mounted.digest,
                "storage": mounted.storage,
                "chunks": image.ref.plan.chunk_count,
                "reads": image.counters.shown(),
            }
            for mounted, image in (found for found in self._targets.values() if found)
        ]

    def stats(self) -> dict[str, Any]:
        """`g8ufs.stats`: since the start, all mounts together."""
        cache, fetcher = self._opened()
        total = Reads()
        for counters in (self._past, *(image.counters for image in self._images.values())):
            total.add(counters)
        return {
            "mounts": len(self._targets),
            "images": len(self._images),
            "reads": total.shown(),
            "fetches": fetcher.counters.shown(),
            "cache": cache.shown(),
            "stores": self.stores.state(),
        }

    async def prefetch(self, flist: str, *, storage: str = "", paths: Sequence[str] = ()) -> dict[str, Any]:
        """Bring the flist and its chunks (of these paths; none: all) into the cache; see prefetch.Fetched."""
        cache, fetcher = self._opened()
        ref = await self._prepared(flist)
        router = await sources(flist, storage or self._storage, ref)
        folders = [os.fsencode(posixpath.normpath(f"/{path}").lstrip("/")) for path in paths]
        if router is None:
            return asdict(prefetch.Fetched())
        store = self.stores.open(router)
        try:
            refs = prefetch.wanted(ref.plan, folders)
            return asdict(await prefetch.fetch_all(fetcher, cache, store, refs))
        finally:
            await store.close()

    async def pin(self, flist: str) -> dict[str, Any]:
        """Never evict the flist's chunks: `{digest, chunks, size_bytes}`. Exhausted: they are too many."""
        cache, _ = self._opened()
        ref = await self._prepared(flist)
        chunks = await blocking.run("cpu", _ids, ref.plan)
        await cache.pin(ref.digest, chunks)
        return {"digest": ref.digest, "chunks": len(chunks), "size_bytes": sum(size for _, size in chunks)}

    async def unpin(self, flist: str) -> bool:
        """By the flist's name or digest; False when it was not pinned."""
        cache, _ = self._opened()
        digest = flist if re.fullmatch(r"[0-9a-f]{64}", flist) else (await self._prepared(flist)).digest
        return await cache.unpin(digest)

    async def profile(self, flist: str) -> tuple[str, int, bytes]:
        """(digest, chunks, file) of what a start of it reads first. NotFound: none was recorded yet."""
        ref = await self._prepared(flist)
        found = await self._profiles.load(ref.digest, ref.plan.chunk_count)
        if found is None:
            raise NotFound(
                f"flist {flist} has no profile here",
                hint="it is written when a container of it ends, or has run for 30 s",
            )
        return ref.digest, len(found.order), format_profile(found)

    async def drop(self) -> int:
        """Forget all chunks but the pinned; the bytes that became free."""
        cache, _ = self._opened()
        return await cache.clear()

    def _opened(self) -> tuple[ChunkCache, Fetcher]:
        if self._cache is None or self._fetcher is None:
            raise Unavailable("g8ufs is not running")
        return self._cache, self._fetcher

    async def close(self) -> None:
        """Detach everything and end the session; never waits for a store. Safe to call twice."""
        if self._fetcher is not None:
            await self._fetcher.close()
        for mounted in await self.list():
            try:
                await self.detach(mounted.target)
            except (NodeError, OSError) as error:
                log.error("cannot detach", target=mounted.target, error=str(error))
        await self._session.close()
        await self._profiles.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        cache, self._cache = self._cache, None
        if cache is not None:
            await cache.close()

    async def _prepared(self, flist: str) -> ImageRef:
        """Download and build; concurrent callers of one flist share the work."""
        flight = self._flights.get(flist)
        if flight is None:
            flight = asyncio.create_task(self._prepare(flist), name="g8ufs-prepare")
            self._flights[flist] = flight
            flight.add_done_callback(lambda task: self._landed(flist, task))
        return await asyncio.shield(flight)

    def _landed(self, flist: str, flight: "asyncio.Task[ImageRef]") -> None:
        """Also when all who waited for it have gone: who comes next starts anew."""
        del self._flights[flist]
        if not flight.cancelled():
            flight.exception()

    async def _prepare(self, flist: str) -> ImageRef:
        signature = await self._trust.signature(flist)
        path = await self._downloads.fetch(flist)
        async with self._preparing:
            try:
                ref = await blocking.run("cpu", prepare, path, self._prepared_at)
            except FileNotFoundError as error:
                raise NotFound(f"flist {flist} is not there") from error
            except OSError as error:
                raise Unavailable(f"flist {flist}: {error}") from error
        try:
            self._trust.check(flist, signature, ref)
        except PermissionDenied:  # unless a new flist came between the two
            self._trust.check(flist, await self._trust.signature(flist), ref)
        await blocking.run("disk", kept.touch, ref.directory)
        await self._prune(ref)
        return ref

    async def _prune(self, ref: ImageRef) -> None:
        """Keep the folders beside the chunks within the budget that they share with them."""
        now = asyncio.get_running_loop().time()
        if now - self._pruned_s < _PRUNE_EVERY_S or self._cache is None:
            return
        self._pruned_s = now
        budget = self._config.cache_bytes
        keep = {ref.digest, *(image.ref.digest for image in self._images.values()), *self._cache.pins}
        try:
            size = await blocking.run("disk", kept.prune, self._kept_at, budget // _KEPT_SHARE, keep)
            await self._cache.resize(max(budget - size, budget // 2))
        except OSError as error:
            log.warning("the folders of images and flists could not be pruned", error=str(error))

    async def _acquire(self, ref: ImageRef, router: Router | None) -> _Image:
        """The mounted image, with one more user. The first caller mounts, the others wait for it."""
        key = (ref.digest, format_router(router) if router else "")
        image = self._images.get(key)
        if image is None:
            self._serial += 1
            place = f"{self._images_at}/{self._serial}-{ref.digest[:16]}"
            store = self.stores.open(router) if router else MemoryStore()
            image = self._images[key] = _Image(ref, key, place, router, store)
            image.ready = asyncio.create_task(self._mount(image), name="g8ufs-mount")
        image.users += 1
        try:
            assert image.ready is not None
            await asyncio.shield(image.ready)
        except BaseException:
            await self._release(image)
            raise
        return image

    async def _release(self, image: _Image) -> None:
        image.users -= 1
        if not image.users:
            # From here on a new attach makes an image of its own.
            if self._images.get(image.key) is image:
                del self._images[image.key]
            await _finish(self._unmount(image))

    async def _unmount(self, image: _Image) -> None:
        if image.ready is not None:
            await asyncio.wait([image.ready])
        await image.undo.aclose()
        self._past.add(image.counters)

    async def _mount(self, image: _Image) -> None:
        async with AsyncExitStack() as undo:
            entry, file = await self._entry(image)
            undo.push_async_callback(self._session.remove, entry)
            undo.push_async_callback(self._ahead(image, file).close)
            mount = kernelmount.mount_tree if self._tree else kernelmount.mount_erofs
            await blocking.run("path", mount, self._session.path(entry), image.place)
            undo.push_async_callback(blocking.run, "path", kernelmount.unmount, image.place, remove=True)
            undo.push_async_callback(file.nearby.close)
            undo.push_async_callback(file.companions.close)
            image.undo = undo.pop_all()

    def _ahead(self, image: _Image, file: ImageFile) -> Ahead:
        cache, fetcher = self._opened()
        return Ahead(
            image.ref.plan,
            file.recorder,
            image.ref.digest,
            profiles=self._profiles,
            fetcher=fetcher,
            cache=cache,
            store=image.store,
        )

    async def _entry(self, image: _Image) -> tuple[Entry, ImageFile]:
        """The entry in the session. It owns the file, and the file the store."""
        cache, fetcher = self._opened()
        file = ImageFile(
            image.ref.plan,
            image.store,
            cache,
            fetcher,
            read_timeout_s=self._config.read_timeout_s,
            around_bytes=self._config.around_bytes,
            closed=lambda: self._background(image.store.close()),
        )
        image.counters = file.counters
        shown = TreeFile(file) if self._tree else ReadAround(file)
        try:
            await blocking.run("disk", file.open)
            if isinstance(shown, TreeFile):
                await blocking.run("disk", shown.open)
            entry = self._session.add(image.ref.digest[:16], shown)
        except BaseException:
            file.close()
            raise
        if isinstance(shown, ReadAround):
            shown.push = functools.partial(self._session.push, entry)
        return entry, file

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _import_http() -> None:
    importlib.import_module("aiohttp")


def _ids(plan: ImagePlan) -> list[tuple[bytes, int]]:
    """(id, plain size) of every chunk."""
    chunks = (plan.chunk(index) for index in range(plan.chunk_count))
    return [(chunk.id, chunk.plain_size) for chunk in chunks]


def _absolute(target: str) -> str:
    if not target.startswith("/") or not target.strip("/"):
        raise InvalidArgument(f"target {target!r}: expected an absolute path")
    return posixpath.normpath(target)


async def _bound(place: str, target: str, nosuid: bool) -> None:
    """Bind the image at the target; a cancelled caller finds nothing mounted."""
    task = asyncio.ensure_future(blocking.run("path", kernelmount.bind, place, target, nosuid))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.exception() is None:
            await blocking.run("path", kernelmount.unmount, target)
        raise


async def _finish(work: Awaitable[T]) -> T:
    """Run to the end though the caller is cancelled: a half-done mount would be lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
