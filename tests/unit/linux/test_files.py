"""Trees: walks that stay in them."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from g8node.linux import files
from tests.support.descriptors import open_below


def test_walk_shows_a_folder_before_and_after_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "link").symlink_to("a")
    top = os.open(tmp_path, os.O_RDONLY)
    steps = [(name, step) for _, name, step in files.walk(top)]
    os.close(top)
    assert sorted(steps) == sorted(
        [("a", "enter"), ("b", "enter"), ("b", "leave"), ("file", "other"), ("a", "leave"), ("link", "other")]
    )
    assert steps.index(("a", "enter")) < steps.index(("file", "other")) < steps.index(("a", "leave"))


def deep(folder: Path, depth: int) -> None:
    """Deeper than Python recurses, and than a path may be long."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_remove_goes_deeper_than_a_path_can_say() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        deep(Path(folder), 1200)
        files.remove(f"{folder}/directory")
        assert os.listdir(folder) == []


def test_remove_takes_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to("../kept")
    (tmp_path / "link").symlink_to("kept")
    files.remove(str(tmp_path / "top"))
    files.remove(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_walk_gives_all_its_descriptors_back(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    top = os.open(tmp_path, os.O_RDONLY)
    steps = files.walk(top)
    assert next(steps)[1:] == ("a", "enter")
    assert next(steps)[1:] == ("b", "enter")
    assert len(open_below(tmp_path)) > 1
    steps.close()
    os.close(top)
    assert open_below(tmp_path) == []


def test_recursive_mode_reaches_what_the_mode_closes(tmp_path: Path) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "top/inner/file").touch()
    files.change_mode(str(tmp_path / "top"), 0o400, recursive=True)
    assert stat.S_IMODE((tmp_path / "top/inner/file").stat().st_mode) == 0o400


def test_listing_is_bounded(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}").touch()
    assert [row["name"] for row in files.listing(str(tmp_path), 5)] == ["0", "1", "2", "3", "4"]
    with pytest.raises(OSError, match="more than 4 entries"):
        files.listing(str(tmp_path), 4)


def test_name_that_is_no_text_is_listed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).touch()
    assert [row["name"] for row in files.listing(str(tmp_path), 5)] == ["\ufffd"]
