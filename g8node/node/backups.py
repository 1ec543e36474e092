"""Backups of containers in restic repositories, and roots made of them (async); spec core0-resources 1.9.

A snapshot holds the container's root as it was at one moment, and /.corex.meta, the arguments that make the
container again. What lies in mounts (folders of the node, flists, memory) belongs to somebody else or to
nobody and is not in it. The meta file is in the root only while nothing in the container moves.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from g8node.errors import InvalidArgument, NodeError, NotFound
from g8node.linux import mount, rootpath, userns
from g8node.linux.guard import off_loop
from g8node.node import owners, programs, restic, rootfs
from g8node.node.atrest import at_rest, unless_it_ends
from g8node.node.container import Container
from g8node.node.restic import SCHEME, Attach, Repository, repository
from g8node.node.specs import Spec
from g8node.runtime import blocking
from g8node.runtime.finishing import between
from g8node.runtime.process import Reaper

if TYPE_CHECKING:
    from g8node.node.containers import Containers

META: Final = ".corex.meta"
_META_BYTES: Final = 16 << 20
_EMPTY: Final = ("proc", "dev", "sys")
"""What the kernel shows there is in no backup, only the folders are."""


def of_root(root: str) -> Repository | None:
    """The repository of a `restic:` root. InvalidArgument."""
    return repository(root.removeprefix(SCHEME), field="root", snapshot=True) if is_backup(root) else None


def is_backup(root: str) -> bool:
    """Whether a root is a snapshot of a repository."""
    return root.startswith(SCHEME)


class Backups:
    """`folder` is where roots that come from snapshots are kept while their containers live."""

    def __init__(self, containers: "Containers", reaper: Reaper, folder: str) -> None:
        self._containers = containers
        self._reaper = reaper
        self._folder = folder

    async def make(self, id: int, repo: Repository, tags: Sequence[str], attach: Attach) -> str:
        """Save a running container; the snapshot's id. `attach` is told of the process that does it.

        NotFound, Conflict: it ended; Unavailable without restic, NodeError with restic's own words.
        """
        await blocking.run("disk", programs.find, "restic")
        async with (
            at_rest(self._containers, id) as container,
            _marked(container) as names,
            owners.plain(container) as root,
        ):
            words = ("backup", "--json", *_excluded(root), *_tags(container, tags))
            saving = restic.run(self._reaper, repo, *words, cwd=root, files=names, attach=attach)
            printed = await unless_it_ends(container, saving)
        return _snapshot_of(printed)

    async def arguments(self, repo: Repository, attach: Attach) -> Spec:
        """The arguments that a snapshot's container was made with. NotFound, InvalidArgument, Unavailable."""
        words = ("dump", repo.snapshot, f"/{META}")
        try:
            data = await restic.run(self._reaper, repo, *words, most=_META_BYTES, attach=attach)
            return msgspec.json.decode(data, type=Spec)
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"url: /{META} of the snapshot has no arguments: {error}") from error

    async def attach(self, container: Container, lower: str, undo: AsyncExitStack) -> None:
        """Restore the container's root from its snapshot and mount it on `lower`; `undo` undoes it."""
        repo = of_root(container.spec.root)
        assert repo is not None
        folder = f"{self._folder}/{container.id}"
        undo.push_async_callback(blocking.run, "path", _discard, folder, lower)
        await blocking.run("path", _fresh, folder)
        words = ("restore", repo.snapshot, f"--target={folder}")
        await unless_it_ends(container, restic.run(self._reaper, repo, *words))
        await blocking.run("path", _show, folder, lower)

    async def clear(self) -> None:
        """Remove what an earlier run left; nobody uses it any more."""
        await blocking.run("path", shutil.rmtree, self._folder, ignore_errors=True)


def _marked(container: Container) -> AbstractAsyncContextManager[list[str]]:
    """The names in the root, the file META among them while inside."""
    root = container.rootfs
    marking = blocking.run("path", _mark, root, _meta_of(container), container.base)
    return between(marking, lambda: blocking.run("path", unmark, root))


@off_loop
def _mark(root: str, meta: bytes, base: int) -> list[str]:
    names = sorted(set(os.listdir(root)) - {META})
    if not names:
        raise NodeError("there is nothing to back up")
    fd = rootpath.open_root(root)
    try:
        with userns.acting(base):
            rootpath.write_file(fd, META, meta, mode=0o600, directory_mode=0o755)
    finally:
        os.close(fd)
    return [META, *names]


@off_loop
def unmark(root: str) -> None:
    """Remove the meta file."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(f"{root}/{META}")


def _meta_of(container: Container) -> bytes:
    """The arguments that make it again: its program as it was, links that are there, no layers or files."""
    spec, program, network = container.spec, container.place.program, container.network
    nics = [wire.nic for wire in network.wires if wire.state == "configured"] if network is not None else []
    return msgspec.json.encode(
        msgspec.structs.replace(
            spec,
            root="",
            layers=None,
            config=None,
            nics=nics,
            command=list(program.argv),
            env=dict(program.env),
            workdir=program.cwd,
            user=program.user,
        )
    )


def _excluded(root: str) -> list[str]:
    """Anchored: a folder `proc` elsewhere is one as any other."""
    escaped = re.sub(r"([\\*?\[\]])", r"\\\1", root)
    return [f"--exclude={escaped}/{name}/**" for name in _EMPTY]


def _tags(container: Container, tags: Sequence[str]) -> list[str]:
    return [f"--tag={tag}" for tag in dict.fromkeys([*(container.spec.tags or ()), *tags])]


def _snapshot_of(printed: bytes) -> str:
    for line in reversed(printed.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            row = msgspec.json.decode(line, type=dict[str, Any])
            if row.get("message_type") == "summary" and row.get("snapshot_id"):
                return str(row["snapshot_id"])
    raise NodeError("restic tells no id of a snapshot")


@off_loop
def _fresh(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    os.mkdir(folder)


@off_loop
def _show(folder: str, lower: str) -> None:
    unmark(folder)
    if not os.listdir(folder):
        raise NotFound("root: the snapshot is empty")
    os.chmod(folder, 0o755)  # it becomes the container's /
    mount.bind(folder, lower, readonly=True)


@off_loop
def _discard(folder: str, lower: str) -> None:
    rootfs.unmount(lower)
    shutil.rmtree(folder, ignore_errors=True)
