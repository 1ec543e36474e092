"""Prepared images and downloaded flists within their budget."""

import os
from pathlib import Path

from g8node.g8ufs.kept import prune, touch

SIZE = 64 << 10


def made(folder: Path, count: int) -> list[Path]:
    """Files of SIZE bytes, the first the oldest, in folders of their own on even numbers."""
    entries = []
    for number in range(count):
        entry = folder / f"{number}.flist" if number % 2 else folder / str(number)
        if number % 2:
            entry.write_bytes(os.urandom(SIZE))
        else:
            entry.mkdir()
            (entry / "meta").write_bytes(os.urandom(SIZE))
        os.utime(entry, (number, number))
        entries.append(entry)
    return entries


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_oldest_entries_go_until_the_rest_fits(tmp_path: Path) -> None:
    made(tmp_path, 6)
    left = prune([str(tmp_path)], 3 * SIZE, ())
    assert names(tmp_path) == {"3.flist", "4", "5.flist"}
    assert left <= 3 * SIZE


def test_what_is_kept_or_young_stays(tmp_path: Path) -> None:
    entries = made(tmp_path, 6)
    touch(str(entries[2]))
    touch(str(tmp_path / "gone"))
    prune([str(tmp_path), str(tmp_path / "nowhere")], 0, {"1"})
    assert names(tmp_path) == {"1.flist", "2"}


def test_nothing_goes_while_all_fits(tmp_path: Path) -> None:
    made(tmp_path, 4)
    assert prune([str(tmp_path)], 100 * SIZE, ()) == sum(
        file.stat().st_blocks * 512 for file in tmp_path.rglob("*") if file.is_file()
    )
    assert len(names(tmp_path)) == 4
