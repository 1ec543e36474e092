"""flist.*: `g8 flist pack` into a folder of chunks, against casync and restic packing the same tree.

Each side is its command line as a user types it, the page cache warm, the stores on one file system, and the
final sync counted. zstd on all: level 3 ours, casync's own (its library's default, 3), restic's `auto` (its
library's default, which corresponds to 3).
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.bench.host import package, run
from tests.bench.rows import Row, compare, single

_TREE_BYTES = 2 << 30
_BIG_TREE_BYTES = 5 << 30
_PACK = (sys.executable, "-m", "g8tools.g8", "flist", "pack")


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    folder = folder / "flist"
    peers = [peer for peer in (_casync, _restic) if wanted(f"flist.pack_mb_s_vs_{peer.__name__[1:]}")]
    if peers:
        tree = make_tree(folder / "tree", _TREE_BYTES)
        for peer in peers:
            yield _compare(folder, tree, peer)
        shutil.rmtree(folder)
    if wanted("flist.pack_peak_mb"):
        tree = make_tree(folder / "tree", _BIG_TREE_BYTES)
        yield _peak(folder, tree)
        shutil.rmtree(folder)


def make_tree(top: Path, size: int) -> Path:
    """Files from 1 KiB to 64 MiB, most of them small, most bytes in large ones; zstd halves them about."""
    rng = random.Random(5)
    made = number = 0
    while made < size:
        length = int(2 ** rng.uniform(10, 18)) if number % 40 else int(2 ** rng.uniform(20, 26))
        place = top / f"{number // 500 % 50:02}" / f"{number // 100 % 5}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"file-{number:06}").open("wb") as out:
            for at in range(0, length, 1 << 20):
                piece = min(length - at, 1 << 20)
                out.write(rng.randbytes(piece // 2 + 1).hex().encode()[:piece])
        made += length
        number += 1
    return top


def _ours(out: Path, tree: Path) -> Sequence[str]:
    return (*_PACK, str(tree), str(out / "tree.flist"), "--store", str(out / "chunks"), "--json")


def _casync(out: Path, tree: Path) -> Sequence[str]:
    where = ("--store", str(out / "chunks"), "--compression", "zstd")
    return ("casync", "make", *where, str(out / "tree.caidx"), str(tree))


def _restic(out: Path, tree: Path) -> Sequence[str]:
    options = ("-q", "--no-cache")
    return ("restic", *options, "-r", str(out / "repo"), "backup", str(tree))


def _compare(folder: Path, tree: Path, peer: Callable[[Path, Path], Sequence[str]]) -> Row:
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    name = peer.__name__[1:]

    def speed(side: Callable[[Path, Path], Sequence[str]]) -> float:
        return size / 1e6 / _seconds(side, folder / "out", tree)

    speed(_ours)  # the tree is in the page cache from here on
    return compare(
        f"flist.pack_mb_s_vs_{name}",
        "MB/s",
        "higher",
        lambda: speed(_ours),
        lambda: speed(peer),
        name,
        tree_bytes=size,
        peer_package=package(name),
        peer_command=" ".join(peer(Path("OUT"), Path("TREE"))),
    )


def _seconds(side: Callable[[Path, Path], Sequence[str]], out: Path, tree: Path) -> float:
    """From nothing to everything on disk."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    env = os.environ | {"RESTIC_PASSWORD": "bench"}
    if side is _restic:
        subprocess.run(("restic", "-q", "-r", str(out / "repo"), "init"), env=env, check=True)
    run("sync")
    began = time.perf_counter()
    subprocess.run(side(out, tree), env=env, check=True, stdout=subprocess.DEVNULL)
    run("sync", "-f", str(out))
    return time.perf_counter() - began


def _peak(folder: Path, tree: Path) -> Row:
    """Largest resident size of the packing process."""
    (folder / "out").mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run(_ours(folder / "out", tree), check=True, stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak <= before:
        raise RuntimeError("another child was larger: run this row alone")
    return single(
        "flist.pack_peak_mb", "MB", "lower", round(peak * 1024 / 1e6, 1), tree_bytes=_BIG_TREE_BYTES
    )
