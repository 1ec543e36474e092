"""The folders, mounts and first files of one container (blocking; runs in the "path" pool).

<containers>/<id>/config.json   the OCI bundle
                  journal.json  see `adoption`
                  held          there while the container is held still
                  lower         the flist, read-only (mounted by g8ufs)
                  layer<n>      flists over it (`layers`), 1 the lowest
                  data          a tmpfs of bounded size: upper and work folders
                  rootfs        overlay of all
                  mount<n>/     the same for each flist in `mount`
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from g8node.errors import InvalidArgument
from g8node.linux import rootpath
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount, mount, mounts, unmount_if_mounted

_DATA_SIZE: Final = "25%"  # of memory; what is written also counts against the container's own limit
_OVERLAY_OPTIONS: Final = "index=off,metacopy=off,redirect_dir=nofollow"
_BUSY_S: Final = 1.0
_HOST_RESOLV_CONF: Final = "/etc/resolv.conf"
_CONFIG_MODE: Final = 0o600
_CONFIG_DIRECTORY_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class Layers:
    """One overlay: `lowers` (the lowest first) are attached by g8ufs, the rest is made here."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    target: str
    mapped: bool = False
    """Whether the lowers have the container's owners beside them; see `owners`."""

    @property
    def shown(self) -> list[str]:
        """What the overlay is made of, the lowest first."""
        return [own(lower) if self.mapped else lower for lower in self.lowers]


def own(lower: str) -> str:
    """Where a layer is shown with the container's owners."""
    return f"{lower}-own"


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the parts of one container are: the root's layers, and one more for each flist in `mount`."""

    top: str
    flists: int = 0
    above: int = 0
    """Layers over the root's flist."""
    size_bytes: int = 0
    """What may be written; 0: a share of memory."""
    mapped: bool = False

    @property
    def data(self) -> str:
        return f"{self.top}/data"

    @property
    def held(self) -> str:
        """There while nothing in the container is to move; see `stillness`."""
        return f"{self.top}/held"

    @property
    def layers(self) -> list[Layers]:
        """The root's first."""
        above = (f"{self.top}/layer{number}" for number in range(1, self.above + 1))
        lowers = (f"{self.top}/lower", *above)
        root = Layers(lowers, f"{self.data}/upper", f"{self.data}/work", f"{self.top}/rootfs", self.mapped)
        return [root] + [
            Layers(
                (f"{self.top}/mount{number}/lower",),
                f"{self.data}/upper{number}",
                f"{self.data}/work{number}",
                f"{self.top}/mount{number}/root",
                self.mapped,
            )
            for number in range(self.flists)
        ]


@off_loop
def make(tree: Tree) -> None:
    """Make the folders and the tmpfs; `remove` undoes it, also when this fails half-way."""
    os.makedirs(tree.top, mode=0o711 if tree.mapped else 0o700)  # who is nobody must find its root
    os.mkdir(tree.data)
    flags = Mount.NOSUID | Mount.NODEV
    mount("tmpfs", tree.data, "tmpfs", flags, f"mode=700,size={tree.size_bytes or _DATA_SIZE}")
    for layers in tree.layers:
        for lower in layers.lowers:
            os.makedirs(lower)
        os.makedirs(layers.target)
        os.mkdir(layers.upper)
        os.mkdir(layers.work)


@off_loop
def remove(tree: Tree) -> None:
    """Unmount what `make` mounted and remove the folders; lowers must be detached already.

    Folder by folder, never recursively: what should still be mounted somewhere is not ours to delete.
    """
    unmount(tree.data)
    for layers in reversed(tree.layers):
        for folder in (*layers.lowers, layers.target, os.path.dirname(layers.target)):
            if folder != tree.top:
                _discard(os.rmdir, folder)
    for name in ("config.json", "journal.json", "journal.json.new", "held"):
        _discard(os.unlink, f"{tree.top}/{name}")
    _discard(os.rmdir, tree.data)
    _discard(os.rmdir, tree.top)


@off_loop
def clear(folder: str) -> None:
    """Remove what an earlier run left in the folder of all trees; what cannot be unmounted stays."""
    folder = os.path.realpath(folder)  # as the kernel shows it
    for entry in mounts()[::-1]:
        if entry.target.startswith(f"{folder}/"):
            unmount(entry.target)
    mounted = [entry.target for entry in mounts()]
    for name in os.listdir(folder):
        top = f"{folder}/{name}"
        if name.isdigit() and not any(target.startswith(f"{top}/") for target in mounted):
            shutil.rmtree(top)


def _discard(how: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        how(path)


@off_loop
def unmount(target: str) -> None:
    """Unmount if mounted; lazily when something goes on using it, so that the rest can be cleaned up.

    A child of ours that has not come to its exec yet still has our descriptors, so that a mount may be busy
    for a moment.
    """
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            unmount_if_mounted(target)
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(0.002)
                continue
            unmount_if_mounted(target, lazy=True)
        return


@off_loop
def stack(layers: Layers, *, devices: bool) -> None:
    """Mount the overlay. `devices`: whether device nodes in it work."""
    # The root of an overlay takes the mode of the upper folder.
    lower = os.stat(layers.shown[-1])
    os.chmod(layers.upper, lower.st_mode & 0o7777)
    os.chown(layers.upper, lower.st_uid, lower.st_gid)
    over(layers, devices=devices)


@off_loop
def over(layers: Layers, *, devices: bool) -> None:
    """Mount the overlay with an upper folder that may have been used before.

    None of the features that make overlayfs remember a lower in the upper folder: another layer may come
    between them, and a folder that the container makes goes on uniting with those of the layers.
    """
    lowers = ":".join(reversed(layers.shown))
    data = f"lowerdir={lowers},upperdir={layers.upper},workdir={layers.work},{_OVERLAY_OPTIONS}"
    try:
        mount("overlay", layers.target, "overlay", 0 if devices else Mount.NODEV, data)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidArgument("layers: one flist is named twice, expected different ones") from error
        raise


@off_loop
def view(lowers: Sequence[str], target: str) -> None:
    """Show the layers, the lowest first, as one tree that cannot be written."""
    data = f"lowerdir={':'.join(reversed(lowers))},{_OVERLAY_OPTIONS}"
    mount("overlay", target, "overlay", Mount.RDONLY | Mount.NODEV | Mount.NOSUID, data)


@off_loop
def unstack(layers: Layers) -> None:
    """Undo `stack`."""
    unmount(layers.target)


@off_loop
def fill(
    root: str,
    hostname: str,
    config: Mapping[str, str],
    *,
    resolv_conf: bool,
    address: str = "",
    nameservers: Sequence[str] = (),
) -> str:
    """Put the first files into a root that nobody uses yet; its links cannot lead us outside.

    `address` is the container's own, `nameservers` take the place of what the root's resolv.conf says.
    Returns the path of the host's resolv.conf (the target for it is made); empty when not asked for or when
    there is none. Raises InvalidArgument when a file cannot be written.
    """
    source = os.path.realpath(_HOST_RESOLV_CONF) if resolv_conf else ""
    source = source if os.path.isfile(source) else ""
    fd = rootpath.open_root(root)
    try:
        _write(fd, "etc/hostname", f"{hostname}\n", "root", 0o644, 0o755)
        _write(fd, "etc/hosts", _hosts(hostname, address), "root", 0o644, 0o755)
        if nameservers:
            _write(fd, "etc/resolv.conf", resolv(nameservers), "root", 0o644, 0o755)
        if source:
            try:
                rootpath.ensure_file(fd, "etc/resolv.conf")
            except OSError as error:
                raise InvalidArgument(f"root: cannot make /etc/resolv.conf: {error}") from error
        for path, content in config.items():
            _write(fd, path, content, "config", _CONFIG_MODE, _CONFIG_DIRECTORY_MODE)
    finally:
        os.close(fd)
    return source


def _write(root: int, path: str, content: str, field: str, mode: int, directory_mode: int) -> None:
    try:
        data = content.encode("utf-8", "surrogateescape")
        rootpath.write_file(root, path, data, mode=mode, directory_mode=directory_mode)
    except (OSError, UnicodeError) as error:
        raise InvalidArgument(f"{field}: cannot write {path}: {error}") from error


def _hosts(hostname: str, address: str) -> str:
    own = f"{address or '127.0.1.1'}\t{hostname}"
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\n"


def resolv(nameservers: Sequence[str]) -> str:
    """A resolv.conf(5)."""
    return "".join(f"nameserver {server}\n" for server in nameservers)


@off_loop
def check_sources(paths: list[str]) -> None:
    """Host paths of `mount`: InvalidArgument for the first that does not exist."""
    for path in paths:
        if not os.path.exists(path):
            raise InvalidArgument(f"mount: host path {path} does not exist")
