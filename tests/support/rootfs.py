"""A small real root file system of busybox-static, and a stand-in for g8ufs that binds a folder."""

import os
import shutil
import subprocess
from pathlib import Path

from g8node.errors import NotFound
from g8node.linux import mount
from g8node.node import rootfs
from g8node.runtime import blocking

BUSYBOX = "/bin/busybox"


def make_rootfs(folder: Path) -> Path:
    """A tree with every busybox applet, users and the usual folders."""
    for name in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc",
        "tmp",
        "root",
        "var",
        "proc",
        "sys",
        "dev",
        "run",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list-full"], check=True, capture_output=True, text=True).stdout
    for path in applets.split():
        if path != "bin/busybox" and not os.path.lexists(folder / path):
            (folder / path).symlink_to("/bin/busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (folder / "etc/group").write_text("root:x:0:\n")
    (folder / "etc/os-release").write_text("ID=busybox\n")
    return folder


class FolderMounts:
    """`Mounts` over real folders: the flist is the path of one. Read-only, as g8ufs mounts are."""

    def __init__(self) -> None:
        self.attached: set[str] = set()
        self.info: dict[str, str] = {}
        """What every flist says of itself."""

    async def attach(self, flist: str, target: str, *, storage: str = "") -> "FolderMounts":
        source = flist.removeprefix("file://")
        if not await blocking.run("path", os.path.isdir, source):
            raise NotFound(f"flist {flist} does not exist")
        await blocking.run("path", mount.bind, source, target, readonly=True)
        self.attached.add(target)
        return self

    async def detach(self, target: str) -> None:
        await blocking.run("path", rootfs.unmount, target)
        self.attached.discard(target)
