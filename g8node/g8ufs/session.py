"""The one FUSE session of the process: a folder with one file per mounted flist (async).

The only importer of pyfuse3 beside the guard, so that another codec can replace it. It must run on uvloop:
on stock asyncio /dev/fuse is read blocking with the GIL held, and a killed client can freeze the interpreter
(style 2, hazard c). `max_tasks` is unbounded, because the same race ends a pyfuse3 worker here (hazard d).

Reads never go through Python once the kernel has the pages: entries are opened with keep_cache, and names,
attributes and data never change, so all timeouts are long. A name is used once in the session's life.
"""

import asyncio
import errno
import itertools
import os
import stat
from collections.abc import Sequence
from typing import Final, Protocol

import pyfuse3
import pyfuse3.asyncio

from g8node.errors import Conflict, NodeError, Unavailable
from g8node.g8ufs.guard import answers
from g8node.g8ufs.treefile import TreeFile, in_tree, inode_number, split
from g8node.g8ufs.workers import Workers
from g8node.linux import fusectl
from g8node.linux import mount as mounts
from g8node.runtime import blocking, logs
from g8node.wire.erofs import NAME_MAX
from g8node.wire.erofs_read import Inode
from g8node.wire.erofs_xattr import PREFIXES

log = logs.get("g8ufs.session")

READ_AHEAD_KB: Final = 1024
MAX_BACKGROUND: Final = 1024
_DOTS: Final = (b".", b"..")
_WORKERS: Final = 16
"""Idle pyfuse3 workers kept; with few of them every request would start and end a task."""
_FOREVER_S: Final = 1e6
_OPTIONS: Final = frozenset({"fsname=g8ufs", "subtype=g8ufs", "allow_other", "default_permissions", "ro"})
_CLOSE_TIMEOUT_S: Final = 5.0


def _absent() -> pyfuse3.EntryAttributes:
    """A name that never comes: the kernel need not ask again."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = 0
    attributes.entry_timeout = _FOREVER_S
    return attributes


class File(Protocol):
    """What an entry serves."""

    size: int

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """All bytes of the range that lie inside the file; anything shorter wedges the reader's file."""

    def close(self) -> None:
        """Called once: after the entry was removed and the kernel released it."""


class Entry:
    """One file of the session."""

    def __init__(self, inode: int, name: str, file: File) -> None:
        self.inode = inode
        self.name = name
        self.file = file
        self.opens = 0
        self.removed = False


def _tree_attributes(number: int, inode: Inode) -> pyfuse3.EntryAttributes:
    """stat of an inode of a tree; it never changes."""
    found = pyfuse3.EntryAttributes()
    found.entry_timeout = found.attr_timeout = _FOREVER_S
    found.st_ino = number
    found.st_mode = inode.mode
    found.st_nlink = inode.nlink
    found.st_uid, found.st_gid = inode.uid, inode.gid
    found.st_size = inode.size
    found.st_blocks = -(-inode.size // 512)
    found.st_blksize = 4096
    found.st_rdev = os.makedev(inode.rdev >> 8 & 0xFFF, inode.rdev & 0xFF | inode.rdev >> 12 & 0xFFF00)
    found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = inode.mtime_ns
    return found


class _Operations(pyfuse3.Operations):
    """The file system: a read-only folder of files. Every handler answers (R3)."""

    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self.by_inode: dict[int, Entry] = {}
        self.by_name: dict[bytes, Entry] = {}

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.entry_timeout = attributes.attr_timeout = _FOREVER_S
        attributes.st_blksize = 4096
        if inode == pyfuse3.ROOT_INODE:
            attributes.st_mode = stat.S_IFDIR | 0o500
            attributes.st_nlink = 2
            return attributes
        if in_tree(inode):
            _, found = self._in_tree(inode)
            return _tree_attributes(inode, found)
        entry = self._entry(inode)
        if isinstance(entry.file, TreeFile):
            return self._attributes(inode_number(inode, entry.file.reader.root))
        attributes.st_mode = stat.S_IFREG | 0o400
        attributes.st_nlink = 1
        attributes.st_size = entry.file.size
        attributes.st_blocks = -(-entry.file.size // 512)
        return attributes

    def _in_tree(self, inode: int) -> tuple[TreeFile, Inode]:
        number, nid = split(inode)
        file = self._entry(number).file
        if not isinstance(file, TreeFile):
            raise pyfuse3.FUSEError(errno.ENOENT)
        return file, file.reader.inode(nid)

    def _entry(self, inode: int) -> Entry:
        entry = self.by_inode.get(inode)
        if entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return entry

    @answers
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if len(name) > NAME_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        if in_tree(parent_inode):
            tree, folder = self._in_tree(parent_inode)
            nid = tree.reader.lookup(folder, name)
            if nid is None:
                return _absent()
            tree.lookups += 1
            return self._attributes(inode_number(split(parent_inode)[0], nid))
        entry = self.by_name.get(name) if parent_inode == pyfuse3.ROOT_INODE else None
        if entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        if isinstance(entry.file, TreeFile):
            entry.file.lookups += 1
        return self._attributes(entry.inode)

    @answers
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Of a tree, the entry is needed as long as the kernel has an inode of it."""
        for inode, count in inode_list:
            entry = self.by_inode.get(split(inode)[0])
            if entry is not None and isinstance(entry.file, TreeFile):
                entry.file.lookups -= count
                self.drop_if_unused(entry)

    @answers
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        tree, link = self._in_tree(inode)
        return tree.reader.target(link)

    @answers
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        value = None
        if in_tree(inode):
            tree, found = self._in_tree(inode)
            value = tree.reader.xattrs(found).get(name)
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA if name.startswith(PREFIXES) else errno.ENOTSUP)
        return value

    @answers
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        if not in_tree(inode):
            return []
        tree, found = self._in_tree(inode)
        return list(tree.reader.xattrs(found))

    @answers
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        return not mode & os.W_OK

    @answers
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        if inode != pyfuse3.ROOT_INODE and not in_tree(inode):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return inode

    @answers
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if in_tree(fh):
            tree, folder = self._in_tree(fh)
            for position, name, nid in tree.reader.entries(folder, start_id):
                number = inode_number(split(fh)[0], nid)
                if not pyfuse3.readdir_reply(token, name, self._attributes(number), position + 1):
                    return
                tree.lookups += name not in _DOTS  # the kernel does not count those
            return
        for entry in sorted(self.by_name.values(), key=lambda entry: entry.inode):
            if entry.inode > start_id and not pyfuse3.readdir_reply(
                token, os.fsencode(entry.name), self._attributes(entry.inode), entry.inode
            ):
                return

    @answers
    async def releasedir(self, fh: int) -> None:
        """Folders have no state."""

    @answers
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        entry = self._entry(split(inode)[0] or inode)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        entry.opens += 1
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    @answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        if in_tree(fh):
            tree, inode = self._in_tree(fh)
            part: bytes = await tree.read_inode(inode, off, size)  # type: ignore[assignment]  # as below
            return part
        entry = self.by_inode.get(fh)
        if entry is None:
            raise pyfuse3.FUSEError(errno.EIO)
        # pyfuse3 takes any buffer; its annotation names only bytes.
        data: bytes = await entry.file.read(off, size)  # type: ignore[assignment]
        return data

    @answers
    async def flush(self, fh: int) -> None:
        """Not implemented, so that the kernel never asks again: a close(2) must not wait for this loop."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @answers
    async def release(self, fh: int) -> None:
        entry = self._entry(split(fh)[0] or fh)
        entry.opens -= 1
        self.drop_if_unused(entry)

    @answers
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = sum(-(-entry.file.size // 4096) for entry in self.by_inode.values())
        data.f_files = len(self.by_name) + 1
        data.f_namemax = NAME_MAX
        return data

    def drop_if_unused(self, entry: Entry) -> None:
        known = entry.file.lookups if isinstance(entry.file, TreeFile) else 0
        if entry.removed and entry.opens <= 0 and known <= 0 and entry.inode in self.by_inode:
            del self.by_inode[entry.inode]
            entry.file.close()


class Session:
    """The mounted session. One per process: pyfuse3 keeps its state in module globals."""

    _mounted: "Session | None" = None

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = os.path.abspath(mountpoint)
        self._operations = _Operations()
        self._inodes = itertools.count(pyfuse3.ROOT_INODE + 1)
        self._main: asyncio.Task[None] | None = None
        self._closing = False
        self._pushes: set[asyncio.Future[None]] = set()
        self.failure = ""
        """Why the session ended, when nobody asked it to."""

    async def start(self) -> None:
        """Mount and serve. Raises Conflict for a second session, Unavailable when FUSE does not work."""
        if type(asyncio.get_running_loop()).__module__.partition(".")[0] != "uvloop":
            raise Unavailable("g8ufs needs uvloop: on asyncio a killed reader can freeze the interpreter")
        if Session._mounted is not None:
            raise Conflict(f"a FUSE session is mounted at {Session._mounted.mountpoint}, one per process")
        pyfuse3.asyncio.enable()
        pyfuse3.asyncio.open_nursery = Workers  # type: ignore[assignment]  # the same three methods
        Session._mounted = self
        try:
            await blocking.run("path", self._mount)
            self._main = asyncio.create_task(self._serve(), name="g8ufs-session")
            await blocking.run(
                "path",
                fusectl.tune,
                self.mountpoint,
                read_ahead_kb=READ_AHEAD_KB,
                max_background=MAX_BACKGROUND,
            )
        except BaseException:
            await self.close()
            raise

    def _mount(self) -> None:
        os.makedirs(self.mountpoint, mode=0o700, exist_ok=True)
        try:
            pyfuse3.init(self._operations, self.mountpoint, set(_OPTIONS))
        except RuntimeError as error:
            raise Unavailable(f"cannot mount FUSE at {self.mountpoint}: {error}") from error

    async def _serve(self) -> None:
        try:
            await pyfuse3.main(min_tasks=_WORKERS, max_tasks=2**30)
            self.failure = "the session was unmounted or aborted"
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            log.exception("the FUSE session failed")
        if not self._closing:
            log.error("the FUSE session ended; what is open on it answers errors", reason=self.failure)

    @property
    def running(self) -> bool:
        return self._main is not None and not self._main.done() and not self._closing

    async def ended(self) -> None:
        """Returns when the session was closed; Unavailable when it died. Cancelling changes nothing."""
        if self._main is not None:
            await asyncio.wait([self._main])
        if not self._closing:
            raise Unavailable(f"the FUSE session died: {self.failure or 'not started'}")

    def check(self) -> None:
        """Raises Unavailable unless the session serves."""
        if not self.running:
            raise Unavailable(f"the FUSE session does not run: {self.failure or 'not started'}")

    def path(self, entry: Entry) -> str:
        """Where the kernel finds the entry. Never touch it on the loop thread."""
        return f"{self.mountpoint}/{entry.name}"

    def add(self, label: str, file: File) -> Entry:
        """A new entry; its name is `<number>-<label>` and never used again."""
        self.check()
        inode = next(self._inodes)
        entry = Entry(inode, f"{inode}-{label}", file)
        self._operations.by_inode[inode] = entry
        self._operations.by_name[os.fsencode(entry.name)] = entry
        return entry

    async def remove(self, entry: Entry) -> None:
        """Take the name away; the file is closed when the kernel has released it."""
        if entry.removed:
            return
        entry.removed = True
        self._operations.by_name.pop(os.fsencode(entry.name), None)
        self._operations.drop_if_unused(entry)
        if self.running:
            try:
                await blocking.run("path", self._forget, entry.name)
            except (OSError, NodeError) as error:
                log.debug("kernel kept the name", entry=entry.name, error=str(error))

    @staticmethod
    def _forget(name: str) -> None:
        """Let the kernel drop the name, and with it the pages of the file. May block: not on the loop."""
        pyfuse3.invalidate_entry(pyfuse3.ROOT_INODE, os.fsencode(name))

    async def push(self, entry: Entry, offset: int, data: bytes) -> None:
        """Put bytes of the entry into the kernel's page cache. Waits for the pages' locks: in a thread."""
        if not self.running or entry.removed:
            return
        pushed = blocking.run("path", pyfuse3.notify_store, entry.inode, offset, data)
        task = asyncio.ensure_future(pushed)
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)
        try:
            await asyncio.shield(task)
        except OSError as error:
            log.debug("the kernel did not take pages", entry=entry.name, error=str(error))

    async def close(self) -> None:
        """Unmount and end. Readers still inside get an error; never hangs on them."""
        if self._closing or Session._mounted is not self:
            return
        self._closing = True
        try:
            await self._unmount()
        finally:
            Session._mounted = None
            for entry in list(self._operations.by_inode.values()):
                entry.removed, entry.opens = True, 0
                if isinstance(entry.file, TreeFile):
                    entry.file.lookups = 0
                self._operations.drop_if_unused(entry)
            self._operations.by_name.clear()

    async def _unmount(self) -> None:
        try:
            _, minor = await blocking.run("path", fusectl.device_of, self.mountpoint)
        except FileNotFoundError:
            minor = -1
        await blocking.run("path", mounts.unmount_if_mounted, self.mountpoint, lazy=True)
        if self._main is None:
            return
        ended, _ = await asyncio.wait([self._main], timeout=0.2)
        if not ended and minor >= 0:
            # Someone still has a file open: without an abort the connection would outlive us.
            await blocking.run("path", fusectl.abort, minor)
            ended, _ = await asyncio.wait([self._main], timeout=_CLOSE_TIMEOUT_S)
        if self._pushes:
            await asyncio.wait(self._pushes, timeout=_CLOSE_TIMEOUT_S)
        if not ended or self._pushes:
            # A handler or a thread may still use the session: its memory must stay until it did.
            log.error("the FUSE session did not end: a handler is stuck")
            return
        await blocking.run("path", pyfuse3.close, unmount=False)
