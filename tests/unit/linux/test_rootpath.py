"""Files written into a root that is full of traps."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from g8node.linux import rootpath
from tests.support.descriptors import open_below


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    folder = tmp_path / "root"
    folder.mkdir()
    fd = rootpath.open_root(str(folder))
    yield folder, fd
    os.close(fd)


def write(fd: int, path: str, content: bytes = b"x") -> None:
    rootpath.write_file(fd, path, content, mode=0o600, directory_mode=0o700)


def test_write_makes_folders_and_sets_modes(root: tuple[Path, int]) -> None:
    folder, fd = root
    old = os.umask(0o077)
    try:
        rootpath.write_file(fd, "/a//b/../c/f", b"text", mode=0o644, directory_mode=0o700)
    finally:
        os.umask(old)
    assert (folder / "a/c/f").read_bytes() == b"text"
    assert (folder / "a/c/f").stat().st_mode & 0o777 == 0o644
    assert (folder / "a").stat().st_mode & 0o777 == 0o700


def test_dotdot_ends_at_the_root(root: tuple[Path, int]) -> None:
    folder, fd = root
    write(fd, "../../../f")
    assert (folder / "f").exists()
    assert not (folder.parent / "f").exists()


def test_absolute_link_is_followed_inside(root: tuple[Path, int]) -> None:
    folder, fd = root
    (folder / "real").mkdir()
    (folder / "link").symlink_to("/real")
    write(fd, "link/f")
    assert (folder / "real/f").exists()


def test_link_to_the_outside_is_refused(root: tuple[Path, int]) -> None:
    folder, fd = root
    outside = folder.parent / "outside"
    outside.mkdir()
    for name, target in (("abs", str(outside)), ("rel", "../outside")):
        (folder / name).symlink_to(target)
        with pytest.raises(OSError):
            write(fd, f"{name}/f")
    assert list(outside.iterdir()) == []


def test_file_takes_the_place_of_link_fifo_and_hard_link(root: tuple[Path, int]) -> None:
    folder, fd = root
    victim = folder.parent / "victim"
    victim.write_text("safe")
    (folder / "link").symlink_to(victim)
    os.link(victim, folder / "hard")
    os.mkfifo(folder / "fifo")
    for name in ("link", "hard", "fifo"):
        write(fd, name, b"new")
        assert (folder / name).read_bytes() == b"new"
        assert not (folder / name).is_symlink()
    assert victim.read_text() == "safe"


def test_folder_of_that_name_is_an_error(root: tuple[Path, int]) -> None:
    folder, fd = root
    (folder / "d").mkdir()
    for path in ("d", "/", "d/.."):
        with pytest.raises(OSError):
            write(fd, path)


def test_loop_and_file_as_folder_are_errors(root: tuple[Path, int]) -> None:
    folder, fd = root
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("x")
    for path in ("loop/f", "file/f"):
        with pytest.raises(OSError):
            write(fd, path)


def test_magic_link_is_refused() -> None:
    fd = rootpath.open_root("/proc")
    try:
        with pytest.raises(OSError):
            rootpath.open_in_root(fd, "self/root/etc", os.O_RDONLY)
    finally:
        os.close(fd)


def test_ensure_file_keeps_files_and_replaces_the_rest(root: tuple[Path, int]) -> None:
    folder, fd = root
    (folder / "kept").write_text("text")
    (folder / "link").symlink_to("/nowhere")
    for name in ("kept", "link", "new/deep"):
        rootpath.ensure_file(fd, name)
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()
    assert (folder / "kept").read_text() == "text"


def test_no_descriptor_is_left(root: tuple[Path, int]) -> None:
    folder, fd = root
    (folder / "loop").symlink_to("loop")
    write(fd, "a/b/c")
    with pytest.raises(OSError):
        write(fd, "a/../loop/x")
    assert open_below(folder) == [str(folder)]
