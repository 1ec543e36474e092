"""The folders of prepared images and downloaded flists, held within a budget (blocking).

Entries are the direct children of the folders. What was used longest ago goes first; what is in use, pinned,
or was touched within the last minutes stays, so that nobody loses what he is about to open.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from g8node.linux.guard import off_loop

_YOUNG_S: Final = 600.0


class Entry(NamedTuple):
    """One child of a folder; `used` is its time of modification, renewed by `touch`."""

    used: float
    path: str
    size_bytes: int


@off_loop
def touch(path: str) -> None:
    """It is in use just now. On a disk that can only be read nothing is pruned."""
    with contextlib.suppress(OSError):
        os.utime(path)


@off_loop
def prune(
    folders: Sequence[str], budget_bytes: int, keep: Collection[str], *, young_s: float = _YOUNG_S
) -> int:
    """Remove entries until the rest fits, or nothing more may go; the bytes that are left.

    `keep` are names (without a suffix) that stay whatever their age.
    """
    entries = sorted(entry for folder in folders for entry in _entries(folder))
    size = sum(entry.size_bytes for entry in entries)
    oldest = time.time() - young_s
    for entry in entries:
        if size <= budget_bytes or entry.used > oldest:
            break
        if os.path.basename(entry.path).partition(".")[0] in keep:
            continue
        _remove(entry.path)
        size -= entry.size_bytes
    return size


def _entries(folder: str) -> list[Entry]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as rows:
        for row in rows:
            with contextlib.suppress(FileNotFoundError):
                found.append(Entry(row.stat().st_mtime, row.path, _size(row.path)))
    return found


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.stat(path).st_blocks * 512
    with os.scandir(path) as rows:
        return sum(os.stat(row).st_blocks * 512 for row in rows)


def _remove(path: str) -> None:
    """A folder is moved aside first: what has its files open goes on reading them."""
    if not os.path.isdir(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    aside = f"{os.path.dirname(path)}/.gone-{os.path.basename(path)}"
    with contextlib.suppress(OSError):
        os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
