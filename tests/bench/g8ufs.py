"""g8ufs.*: files of an flist that a real agent mounted for a container, against squashfuse_ll and ext4.

One compiled reader does the work on both sides. Ours is the read-only lower layer of the container's root,
reached through the agent's mount namespace: file system against file system, no overlay on either side.
"""

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.host import drop_caches, package, run, unmount
from tests.bench.rows import Row, compare
from tests.support.daemon import Daemon, daemon
from tests.support.hub import RunningHub, hub
from tests.support.images import publish
from tests.support.rootfs import make_rootfs

_FILES = 10_000
_FOLDERS = 100
_SEQUENTIAL = 2 << 30
_LEVEL = 3  # zstd, what our packer uses by default
_WARM_PASSES = 7
_SQUASHFS = f"mksquashfs -comp zstd -Xcompression-level {_LEVEL}"
_CONFIG = f"[g8ufs]\ncache_bytes = {4 << 30}\n"


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    small = [
        row for row in (_stat, _read_warm, _read_cold) if wanted(f"g8ufs.{row.__name__[1:]}_vs_{_PEER[row]}")
    ]
    folder = folder / "g8ufs"
    if small:
        with _sides(folder / "small", _small_files) as sides:
            for row in small:
                yield row(sides)
    if wanted("g8ufs.seq_cold_vs_ext4"):
        with _sides(folder / "large", _large_file) as sides:
            yield _seq_cold(sides)


def _stat(sides: "Sides") -> Row:
    return sides.compare("g8ufs.stat_vs_squashfuse", sides.stat, sides.ours, sides.squashfuse)


def _read_warm(sides: "Sides") -> Row:
    return sides.compare("g8ufs.read_warm_vs_ext4", sides.read_warm, sides.ours, sides.ext4)


def _read_cold(sides: "Sides") -> Row:
    return sides.compare("g8ufs.read_cold_vs_squashfuse", sides.read_cold, sides.ours, sides.squashfuse)


def _seq_cold(sides: "Sides") -> Row:
    return sides.compare("g8ufs.seq_cold_vs_ext4", sides.read_cold, sides.ours, sides.ext4)


_PEER = {_stat: "squashfuse", _read_warm: "ext4", _read_cold: "squashfuse"}


@dataclass
class Side:
    """One file system that holds the tree: `start` mounts it afresh, `files` is then the tree in it."""

    name: str
    start: Callable[[], None]
    stop: Callable[[], None]
    files: Callable[[], Path]
    running: bool = False

    def open(self) -> Path:
        if not self.running:
            self.start()
            self.running = True
        return self.files()

    def reopen(self) -> Path:
        self.close()
        return self.open()

    def close(self) -> None:
        if self.running:
            self.running = False
            self.stop()


@dataclass
class Sides:
    """The three holders of one tree, and the measurements that are the same on each."""

    reader: Path
    names: Path
    seen: str
    ours: Side
    squashfuse: Side
    ext4: Side
    seed: int = 1
    setup: dict[str, object] = field(default_factory=dict)

    def compare(self, name: str, how: Callable[[Side], float], ours: Side, peer: Side) -> Row:
        row = compare(name, "s", "lower", lambda: how(ours), lambda: how(peer), peer.name, **self.setup)
        for side in (ours, peer):
            side.close()
        return row

    def stat(self, side: Side) -> float:
        """A walk over what has been walked before, with the kernel's dentries and inodes dropped."""
        files = side.open()
        self._reader("stat", files)
        drop_caches(2)
        return self._reader("stat", files)

    def read_warm(self, side: Side) -> float:
        files = side.open()
        self._read(files, self.seed)
        return median(self._read(files, self.seed) for _ in range(_WARM_PASSES))

    def read_cold(self, side: Side) -> float:
        self.seed += 1
        files = side.reopen()
        drop_caches(3)
        return self._read(files, self.seed)

    def _read(self, files: Path, seed: int) -> float:
        """Seconds of one pass, whose bytes must be those of the source."""
        return self._reader("read", files, str(self.names), str(seed))

    def _reader(self, verb: str, files: Path, *more: str) -> float:
        seconds, _, seen = run(self.reader, verb, files, *more).strip().partition(" ")
        if verb == "read" and seen != self.seen:
            raise RuntimeError(f"{files}: read {seen}, the source has {self.seen}")
        return float(seconds)


@contextmanager
def _sides(folder: Path, fill: Callable[[Path], None]) -> Iterator[Sides]:
    """The tree, the reader and the three sides, from nothing to nothing."""
    tree, reader, names = make_rootfs(folder / "tree"), folder / "reader", folder / "names"
    fill(tree / "files")
    run("gcc", "-O2", "-o", reader, Path(__file__).with_name("g8ufs_reader.c"))
    names.write_bytes(run(reader, "list", tree / "files").encode())
    seen = run(reader, "read", tree / "files", names, "1").strip().partition(" ")[2]
    with ExitStack() as undo:
        store = undo.enter_context(hub(folder))
        sides = Sides(
            reader,
            names,
            seen,
            _ours(folder, tree, store),
            _squashfuse(folder, tree),
            _ext4(folder, tree),
            setup={
                "ours_path": "lower layer of a container: EROFS over the agent's FUSE session",
                "files": seen.partition(" ")[0],
                "zstd_level": _LEVEL,
                "squashfuse": package("squashfuse"),
                "mksquashfs": _SQUASHFS,
            },
        )
        for side in (sides.ours, sides.squashfuse, sides.ext4):
            undo.callback(side.close)
        sides.ours.open()
        sides._read(sides.ours.files(), 1)  # from here on its chunks are in the local cache
        shutil.rmtree(tree / "files")
        yield sides
    shutil.rmtree(folder)


def _ours(folder: Path, tree: Path, store: RunningHub) -> Side:
    """The flist, attached by a real agent for a container that runs nothing but its init."""
    url = publish(store, tree, "tree")
    undo = ExitStack()
    place: list[Path] = []

    def start() -> None:
        node: Daemon = undo.enter_context(daemon(folder / "agent", _CONFIG))
        made = node.job("corex.create", {"root": url, "nics": []})
        if made["state"] != "SUCCESS":
            raise RuntimeError(f"corex.create: {made}")
        lower = node.folder / f"root/run/containers/{made['data']}/lower/files"
        place[:] = [Path(f"/proc/{node.pid}/root{lower}")]

    return Side("g8ufs", start, undo.close, lambda: place[0])


def _squashfuse(folder: Path, tree: Path) -> Side:
    image, target = folder / "tree.squashfs", folder / "squashfuse"
    run("mksquashfs", tree, image, "-quiet", "-no-progress", *_SQUASHFS.split()[1:])
    target.mkdir()
    return Side(
        "squashfuse_ll",
        lambda: _discard(run("squashfuse_ll", image, target)),
        lambda: unmount(target),
        lambda: target / "files",
    )


def _ext4(folder: Path, tree: Path) -> Side:
    image, target = folder / "tree.ext4", folder / "ext4"
    used = int(run("du", "-s", "--block-size=1", tree).split()[0])
    with image.open("wb") as file:
        file.truncate(used * 5 // 4 + (256 << 20))
    run("mkfs.ext4", "-q", "-N", str(4 * _FILES), "-d", tree, image)
    target.mkdir()
    return Side(
        "ext4 (loop, ro)",
        lambda: _discard(run("mount", "-o", "loop,ro", image, target)),
        lambda: unmount(target),
        lambda: target / "files",
    )


def _discard(_: object) -> None:
    """For a call whose answer nobody wants."""


def _small_files(folder: Path) -> None:
    """10,000 different files of 1 to 16 KiB that zstd makes about half as large."""
    rng = random.Random(1)
    for number in range(_FILES):
        place = folder / f"{number % _FOLDERS:02}"
        place.mkdir(parents=True, exist_ok=True)
        size = rng.randint(1 << 10, 16 << 10)
        (place / f"file-{number:05}").write_bytes(rng.randbytes(size // 2 + 1).hex().encode()[:size])


def _large_file(folder: Path) -> None:
    """One file of 2 GiB that zstd makes about half as large."""
    rng = random.Random(2)
    folder.mkdir()
    with (folder / "large").open("wb") as file:
        for _ in range(_SEQUENTIAL >> 20):
            file.write(rng.randbytes(1 << 19).hex().encode())
