"""`g8 flist` and `g8 hub` as a user runs them, against a real Hub."""

import filecmp
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from g8node.errors import InvalidArgument, NodeError, NotFound, PermissionDenied
from g8tools.g8 import console
from g8tools.hub.cli import app
from tests.support.hub import USER_TOKEN, RunningHub, hub

TOP = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("cli")) as started:
        yield started


def g8(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "g8tools.g8", *map(str, words)]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (root / "sub/big").write_bytes(os.urandom(1_300_000))
    (root / "sub/twin").write_bytes((root / "sub/big").read_bytes())
    (root / "sub/deep/empty").write_bytes(b"")
    (root / "hello").write_text("hello\n" * 1000)
    (root / "link").symlink_to("sub/big")
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pack_push_pull_gives_the_same_back(running: RunningHub, tree: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out.flist", tmp_path / "back/out.flist"
    back.parent.mkdir()
    packed = json.loads(g8("flist", "pack", tree, out, "--store", tmp_path / "store", "--json").stdout)
    assert packed["digest"] == hashlib.blake2b(out.read_bytes(), digest_size=32).hexdigest()
    push = ("hub", "push", out, "--hub", running.url, "--repo", "round", "--token-file", running.token_file)
    first = json.loads(g8(*push, "--chunks", tmp_path / "store", "--name", "trip", "--json").stdout)
    assert (first["chunks"], first["chunks_moved"]) == (4, 4)
    again = json.loads(g8(*push, "--name", "again.flist", "--json").stdout)
    assert again["chunks_moved"] == 0
    url = f"{running.url}/round/trip.flist"
    pulled = g8("hub", "pull", url, back)
    assert pulled.stdout == f"{back} {packed['digest']}\n"
    assert "pull trip.flist: chunks: 4 of 4" in pulled.stderr
    assert filecmp.cmp(out, back, shallow=False)
    assert files(back.parent / "chunks") == files(tmp_path / "store")
    assert json.loads(g8("hub", "pull", url, back, "--json").stdout)["chunks_moved"] == 0
    assert g8("flist", "ls", back).stdout == g8("flist", "ls", out).stdout


def test_pack_into_a_hub_and_push_without_a_folder(running: RunningHub, tree: Path, tmp_path: Path) -> None:
    out, archive = tmp_path / "tar.flist", tmp_path / "tree.tar.gz"
    (tree / "only-here").write_bytes(os.urandom(1000))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, ".")
    g8("flist", "pack", archive, out, "--store", running.url, "--token-file", running.token_file)
    g8("hub", "push", out, "--hub", running.url, "--repo", "direct", "--token-file", running.token_file)
    listed = [line.split(" /")[1] for line in g8("flist", "ls", out).stdout.splitlines()]
    assert listed[:5] == ["", "hello", "link -> sub/big", "only-here", "sub"]
    assert listed[5:] == ["sub/big", "sub/deep", "sub/deep/empty", "sub/twin"]


def test_packed_metadata_is_listed_as_json(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.flist"
    g8("flist", "pack", tree, out, "--store", tmp_path / "store", "--info", "entrypoint=/init")
    names = [line["path"] for line in json.loads(g8("flist", "ls", out, "--json").stdout)]
    assert names[:2] == ["/", "/hello"]


def test_push_without_the_chunks_says_what_is_missing(running: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(5000))
    out = tmp_path / "out.flist"
    g8("flist", "pack", tmp_path / "tree", out, "--store", tmp_path / "store")
    push = ("hub", "push", out, "--hub", running.url, "--repo", "x", "--token-file", running.token_file)
    assert "1 of its 1 chunks are not on" in g8(*push, code=100).stderr
    (tmp_path / "empty").mkdir()
    assert "is not in" in g8(*push, "--chunks", tmp_path / "empty", code=100).stderr


def test_push_without_token_is_refused(running: RunningHub, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.flist"
    g8("flist", "pack", tree, out, "--store", tmp_path / "store")
    done = g8(
        "hub", "push", out, "--hub", running.url, "--repo", "x", "--chunks", tmp_path / "store", code=100
    )
    assert len(done.stderr.splitlines()) == 1
    assert "token" in done.stderr


def test_push_of_a_damaged_flist_is_refused(running: RunningHub, tmp_path: Path) -> None:
    out = tmp_path / "out.flist"
    out.write_bytes(b"\x1f\x8b not really gzip")
    push = ("hub", "push", out, "--hub", running.url, "--repo", "x", "--token-file", running.token_file)
    assert g8(*push, code=100).stderr.startswith(f"g8: flist {out}: archive: ")


def test_changes_of_the_own_repository(running: RunningHub, tree: Path, tmp_path: Path) -> None:
    out, token = tmp_path / "x.flist", tmp_path / "token"
    g8("flist", "pack", tree, out, "--store", running.url, "--token-file", running.token_file)
    g8("hub", "push", out, "--hub", running.url, "--repo", "base", "--token-file", running.token_file)
    token.write_text(f"{USER_TOKEN}:alice\n")
    base, own = f"{running.url}/base/x.flist", f"{running.url}/alice"

    def change(*words: str) -> str:
        console.set_json(False, afresh=True)  # what an earlier call asked for
        done = CliRunner().invoke(app, [*words, "--token-file", str(token)])
        if isinstance(done.exception, NodeError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def published(name: str) -> bytes:
        with urllib.request.urlopen(f"{own}/{name}", timeout=60) as answer:
            body: bytes = answer.read()
        return body

    change("promote", base, "first.flist")
    change("rename", f"{own}/first.flist", "one.flist")
    change("link", base, "latest.flist")
    assert json.loads(change("tag", base, "v1", "--name", "part.flist", "--json"))["url"] == base
    for name in ("one.flist", "latest.flist", "tags/v1/part.flist"):
        assert published(name) == out.read_bytes()
    change("untag", base, "v1", "--name", "part.flist")
    with pytest.raises(NotFound, match=r"no flist part.flist in tag alice/v1"):
        change("untag", base, "v1", "--name", "part.flist")
    change("remove", f"{own}/one.flist")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        published("one.flist")
    with pytest.raises(PermissionDenied, match="not in the repository of the token's user, alice"):
        change("remove", base)
    with pytest.raises(InvalidArgument, match="flist name 'x': expected"):
        change("promote", base, "x")
    assert published("latest.flist") == out.read_bytes()


def test_pull_of_what_is_not_there(running: RunningHub, tmp_path: Path) -> None:
    done = g8("hub", "pull", f"{running.url}/no/where.flist", tmp_path / "x.flist", code=100)
    assert done.stderr.endswith("no flist no/where.flist here\n")
    assert not list(tmp_path.iterdir())


def test_pull_finds_a_corrupt_chunk(running: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(5000))
    out = tmp_path / "bad.flist"
    g8("flist", "pack", tmp_path / "tree", out, "--store", tmp_path / "store")
    push = ("hub", "push", out, "--hub", running.url, "--repo", "x", "--token-file", running.token_file)
    g8(*push, "--chunks", tmp_path / "store")
    (chunk,) = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    (running.data / "chunks" / chunk.relative_to(tmp_path / "store")).write_bytes(b"rotten")
    back = tmp_path / "back/bad.flist"
    back.parent.mkdir()
    done = g8("hub", "pull", f"{running.url}/x/bad.flist", back, code=111)
    assert f"chunk {chunk.name}: the store holds other bytes" in done.stderr
    assert not [path for path in back.parent.rglob(chunk.name)]


def test_hub_that_is_not_there(tmp_path: Path) -> None:
    done = g8("hub", "pull", "http://127.0.0.1:1/a/b.flist", tmp_path / "x", code=111)
    assert done.stderr.startswith("g8: Hub http://127.0.0.1:1: ")


def test_second_hub_on_the_same_port_or_folder_is_refused(running: RunningHub, tmp_path: Path) -> None:
    host, port = running.address
    done = g8("hub", "serve", "--data", tmp_path / "other", "--listen", f"{host}:{port}", code=111)
    assert done.stderr == f"g8: {host}:{port}: Address already in use\n"
    done = g8("hub", "serve", "--data", running.data, "--listen", "127.0.0.1:0", code=100)
    assert "another Hub serves" in done.stderr
