"""filesystem.* over a gate connection, as the original's suite asks for them (spec 4.3 and 7)."""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

BLOCK = 512 << 10


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def ask(node: Daemon, name: str, **arguments: Any) -> Any:
    return node.direct(f"filesystem.{name}", **arguments)


def code(node: Daemon, name: str, **arguments: Any) -> int:
    """Of a call that must fail."""
    result = node.job(f"filesystem.{name}", arguments)
    assert result["state"] == "ERROR", result
    return int(result["code"])


def opened(node: Daemon, path: Path, mode: str, **more: Any) -> str:
    fd = ask(node, "open", file=str(path), mode=mode, **more)
    assert isinstance(fd, str)
    return fd


def put(node: Daemon, fd: str, data: bytes) -> None:
    ask(node, "write", fd=fd, block=base64.b64encode(data).decode())


def get(node: Daemon, fd: str) -> bytes:
    return base64.b64decode(ask(node, "read", fd=fd))


def test_file_of_several_blocks_goes_up_and_comes_down_whole(node: Daemon, tmp_path: Path) -> None:
    data = os.urandom(3 * BLOCK + 12345)
    up = opened(node, tmp_path / "file", "w")
    for at in range(0, len(data), BLOCK):
        put(node, up, data[at : at + BLOCK])
    ask(node, "close", fd=up)
    assert (tmp_path / "file").read_bytes() == data
    down = opened(node, tmp_path / "file", "r")
    blocks = [get(node, down) for _ in range(5)]
    assert [len(block) for block in blocks] == [BLOCK, BLOCK, BLOCK, 12345, 0]
    assert b"".join(blocks) == data
    ask(node, "close", fd=down)


def test_block_may_have_newlines(node: Daemon, tmp_path: Path) -> None:
    fd = opened(node, tmp_path / "file", "w")
    data = os.urandom(300)
    ask(node, "write", fd=fd, block=base64.encodebytes(data).decode())
    assert (tmp_path / "file").read_bytes() == data
    ask(node, "close", fd=fd)


def test_read_of_a_write_handle_and_write_of_a_read_handle_fail(node: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    reader = opened(node, tmp_path / "file", "r")
    assert code(node, "write", fd=reader, block="YQ==") == 400
    for mode in ("a", "w"):
        writer = opened(node, tmp_path / "file", mode)
        assert code(node, "read", fd=writer) == 400


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_mode_r_needs_the_file(node: Daemon, tmp_path: Path, mode: str) -> None:
    assert code(node, "open", file=str(tmp_path / "missing"), mode=mode) == 404
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("r+", b"new content"),
        ("w", b"new"),
        ("w+", b"new"),
        ("a", b"old contentnew"),
        ("a+", b"old contentnew"),
    ],
)
def test_mode_decides_what_is_left(node: Daemon, tmp_path: Path, mode: str, left: bytes) -> None:
    (tmp_path / "file").write_bytes(b"old content")
    fd = opened(node, tmp_path / "file", mode)
    put(node, fd, b"new")
    ask(node, "close", fd=fd)
    assert (tmp_path / "file").read_bytes() == left


@pytest.mark.parametrize("mode", ["x", "x+"])
def test_mode_x_makes_a_file_that_was_not_there(node: Daemon, tmp_path: Path, mode: str) -> None:
    fd = opened(node, tmp_path / "file", mode, perm=0o600)
    put(node, fd, b"first")
    ask(node, "close", fd=fd)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert code(node, "open", file=str(tmp_path / "file"), mode=mode) == 409


def test_only_permission_bits_of_perm_count(node: Daemon, tmp_path: Path) -> None:
    opened(node, tmp_path / "file", "w", perm=0o104700)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o700


def test_handles_that_are_not_open(node: Daemon, tmp_path: Path) -> None:
    fd = opened(node, tmp_path / "file", "w")
    ask(node, "close", fd=fd)
    ask(node, "close", fd=fd)
    assert code(node, "read", fd=fd) == 404
    assert code(node, "write", fd=fd, block="") == 404


def test_open_never_waits(node: Daemon, tmp_path: Path) -> None:
    """A pipe whose other end nobody holds would take a thread for good."""
    os.mkfifo(tmp_path / "pipe")
    assert code(node, "open", file=str(tmp_path / "pipe"), mode="r") == 400
    assert code(node, "open", file=str(tmp_path / "pipe"), mode="w") == 404
    assert code(node, "open", file=str(tmp_path), mode="r") == 400


def test_number_of_handles_is_bounded(node: Daemon, tmp_path: Path) -> None:
    handles = []
    result = node.job("filesystem.open", {"file": str(tmp_path / "file"), "mode": "w"})
    while result["state"] == "SUCCESS":
        handles.append(result["data"].strip('"'))
        assert len(handles) <= 256
        result = node.job("filesystem.open", {"file": str(tmp_path / "file"), "mode": "w"})
    assert result["code"] == 503
    for fd in handles:
        ask(node, "close", fd=fd)
    ask(node, "close", fd=opened(node, tmp_path / "file", "r"))


def test_folders_are_made_listed_and_removed(node: Daemon, tmp_path: Path) -> None:
    ask(node, "mkdir", path=f"{tmp_path}/a/b/c")
    ask(node, "mkdir", path=f"{tmp_path}/a/b/c")
    (tmp_path / "a/file").write_bytes(b"12345")
    (tmp_path / "a/file").chmod(0o640)
    (tmp_path / "a/link").symlink_to("b")
    rows = ask(node, "list", path=f"{tmp_path}/a")
    assert [(row["name"], row["is_dir"]) for row in rows] == [("b", True), ("file", False), ("link", False)]
    assert rows[1] == {"name": "file", "size": 5, "mode": 0o640, "is_dir": False}
    assert rows[0]["mode"] == 0o755
    ask(node, "remove", path=f"{tmp_path}/a")
    assert not (tmp_path / "a").exists()
    ask(node, "remove", path=f"{tmp_path}/a")
    assert code(node, "list", path=f"{tmp_path}/a") == 404


def test_exists_follows_links_and_only_enoent_is_false(node: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    assert ask(node, "exists", path=f"{tmp_path}/file") is True
    assert ask(node, "exists", path=f"{tmp_path}/dangling") is False
    assert code(node, "exists", path=f"{tmp_path}/file/below") == 400


def test_move_replaces_a_file_and_stays_on_its_file_system(node: Daemon, tmp_path: Path) -> None:
    (tmp_path / "from").write_text("from")
    (tmp_path / "to").write_text("to")
    ask(node, "move", path=f"{tmp_path}/from", destination=f"{tmp_path}/to")
    assert (tmp_path / "to").read_text() == "from"
    assert code(node, "move", path=f"{tmp_path}/to", destination="/dev/shm/g8node-moved") == 400
    assert code(node, "move", path=f"{tmp_path}/from", destination=f"{tmp_path}/x") == 404


def tree(folder: Path) -> Path:
    (folder / "top/inner").mkdir(parents=True)
    (folder / "outside").write_text("")
    (folder / "outside").chmod(0o600)
    (folder / "top/inner/file").write_text("")
    (folder / "top/inner/link").symlink_to(folder / "outside")
    return folder / "top"


def test_chmod_recursive_follows_no_link(node: Daemon, tmp_path: Path) -> None:
    top = tree(tmp_path)
    ask(node, "chmod", path=str(top), mode=0o711)
    assert stat.S_IMODE((top / "inner/file").stat().st_mode) == 0o644
    ask(node, "chmod", path=str(top), mode=0o750, recursive=True)
    for path in (top, top / "inner", top / "inner/file"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o600
    assert code(node, "chmod", path=f"{tmp_path}/none", mode=0o750) == 404


def test_chown_needs_names_that_exist_and_follows_no_link(node: Daemon, tmp_path: Path) -> None:
    top = tree(tmp_path)
    assert code(node, "chown", path=str(top), user="nobody-here", group="root") == 404
    assert code(node, "chown", path=str(top), user="root", group="nobody-here") == 404
    ask(node, "chown", path=str(top), user="nobody", group="nogroup", recursive=True)
    for path in (top, top / "inner", top / "inner/file"):
        assert path.owner() == "nobody"
        assert path.group() == "nogroup"
    assert (tmp_path / "outside").owner() == "root"


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", "/tmp/..", "/proc/self/root/.", "."])
def test_root_is_not_removed(node: Daemon, path: str) -> None:
    assert code(node, "remove", path=path) == 400


def test_what_is_mounted_inside_survives_a_remove(node: Daemon, tmp_path: Path) -> None:
    """A folder that a container's root is mounted below must not take that root with it."""
    script = f"mkdir -p {tmp_path}/top/m {tmp_path}/kept && touch {tmp_path}/kept/file {tmp_path}/top/x"
    bind = f"mount --bind {tmp_path}/kept {tmp_path}/top/m"
    assert node.job("bash", {"script": f"{script} && {bind}"})["state"] == "SUCCESS"
    assert code(node, "remove", path=f"{tmp_path}/top") == 409
    assert os.listdir(tmp_path / "kept") == ["file"]
    node.job("bash", {"script": f"umount {tmp_path}/top/m"})
    ask(node, "remove", path=f"{tmp_path}/top")
    assert os.listdir(tmp_path) == ["kept"]


def test_file_of_a_mounted_flist_is_read_through_our_own_fuse(node: Daemon, tmp_path: Path) -> None:
    """What the loop itself serves: a call on the loop, or one that keeps the GIL, would never end."""
    (tmp_path / "hub").mkdir()
    with hub(tmp_path / "hub") as images:
        tree = busybox_tree(tmp_path / "tree")
        container = node.job("corex.create", {"root": publish(images, tree, "files"), "storage": images.url})
        assert container["state"] == "SUCCESS", container
        number = int(container["data"])
        root = node.direct("corex.get", query=number)["container"]["root"]
        below = [row["name"] for row in ask(node, "list", path=root)]
        assert set(below) >= set(os.listdir(tree))
        fd = opened(node, Path(root) / "bin/busybox", "r")
        data = b"".join(iter(lambda: get(node, fd), b""))
        ask(node, "close", fd=fd)
        assert data == (tree / "bin/busybox").read_bytes()
        ask(node, "chmod", path=f"{root}/bin", mode=0o700, recursive=True)
        node.direct("corex.terminate", container=number)


def test_relative_paths_begin_at_the_root(node: Daemon, tmp_path: Path) -> None:
    ask(node, "mkdir", path=f"{str(tmp_path).lstrip('/')}/relative")
    assert (tmp_path / "relative").is_dir()


def test_handles_end_with_the_node(tmp_path: Path) -> None:
    with daemon(tmp_path / "node") as node:
        put(node, opened(node, tmp_path / "file", "w"), b"kept")
        assert node.stop() == 0
    assert (tmp_path / "file").read_bytes() == b"kept"
