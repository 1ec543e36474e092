"""`g8 flist` as a user types it: every command, its text and its JSON."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from g8node.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8node.linux.mount import mount, mounts, unmount
from g8tools.flist.cli import app
from g8tools.g8 import console
from tests.support.faults import flip
from tests.support.loops import Loops
from tests.support.trees import look, nasty

TOP = Path(__file__).resolve().parent.parent.parent


class Failed(Exception):
    """The command ended with another code than 0."""


def flist(*words: str | Path) -> str:
    console.set_json(False, afresh=True)  # what an earlier call asked for
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        raise Failed(done.output)
    return done.stdout


def parsed(*words: str | Path) -> Any:
    return json.loads(flist(*words, "--json"))


def refused(error: type[NodeError], message: str, *words: str | Path) -> None:
    with pytest.raises(error, match=message):
        flist(*words)


def planted(top: Path) -> Path:
    """A small tree with a file of two chunks."""
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "app.conf").write_text("port = 1\n")
    (top / "bin").mkdir()
    (top / "bin" / "app").write_bytes(os.urandom(700_000))
    (top / "bin" / "app").chmod(0o755)
    (top / "link").symlink_to("bin/app")
    for path in [*top.rglob("*"), top]:
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return top


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return planted(tmp_path / "tree")


@pytest.fixture
def made(tree: Path, tmp_path: Path) -> Path:
    out = tmp_path / "x.flist"
    flist("pack", tree, out, "--store", tmp_path / "store", "--route", f"dir://{tmp_path}/store")
    return out


def test_looking_into_an_flist(made: Path, tree: Path) -> None:
    assert [line["path"] for line in parsed("ls", made, "/etc")] == ["/etc", "/etc/app.conf"]
    assert "/bin/app" in flist("ls", made)
    assert "└── link -> bin/app" in flist("tree", made)
    assert parsed("tree", made) == {"bin": {"app": 700_000}, "etc": {"app.conf": 9}, "link": 7}
    assert parsed("stat", made, "bin/app")["size"] == 700_000
    assert "mode    -rwxr-xr-x" in flist("stat", made, "/bin/app")
    assert flist("find", made, "--name", "*.conf") == "/etc/app.conf\n"
    assert parsed("find", made, "--type", "f", "--larger", "1000") == ["/bin/app"]
    assert flist("cat", made, "/etc/app.conf") == "port = 1\n"
    refused(NotFound, "no/such is not in the flist", "cat", made, "no/such")
    refused(InvalidArgument, "no regular file", "cat", made, "/etc")
    refused(InvalidArgument, "expected one of f", "find", made, "--type", "x")
    with pytest.raises(FileNotFoundError):
        flist("ls", tree / "nothing")


def test_info_tells_what_it_is(made: Path, tmp_path: Path) -> None:
    found = parsed("info", made)
    assert (found["format"], found["files"], found["directories"], found["links"]) == ("g8", 2, 3, 1)
    assert (found["bytes"], found["chunks"], found["codecs"]) == (700_009, 3, "g8")
    assert found["stores"] == [{"pool": "stores", "range": "00:ff", "url": f"dir://{tmp_path}/store"}]
    assert len(found["digest"]) == len(found["merkle"]) == 64
    assert "format" in flist("info", made)


def test_credentials_do_not_get_into_an_flist(tree: Path, tmp_path: Path) -> None:
    out, route = tmp_path / "y.flist", "00-7f=zdb://user:geheim@host:9900/ns"
    flist("pack", tree, out, "--store", tmp_path / "store", "--route", route)
    assert parsed("info", out)["stores"][0]["url"] == "zdb://host:9900/ns"
    router = tmp_path / "router.yaml"
    router.write_text("pools: {hub: {'00:ff': 'redis://me:geheim@host'}}\nlookup: [hub]\n")
    words = ("pack", tree, out, "--store", tmp_path / "store", "--router-file", router, "--keep-credentials")
    flist(*words)
    from g8node.flist.container import read_flist

    kept = read_flist(str(out)).router
    assert kept is not None
    assert "geheim" in kept.pools["hub"][0].url


def test_stores_that_an_flist_names_are_not_written_to(tree: Path, tmp_path: Path) -> None:
    out, router, near, store = tmp_path / "y", tmp_path / "router.yaml", tmp_path / "near", tmp_path / "store"
    pools = f"pools: {{near: {{'00:ff': 'dir://{near}'}}, far: {{'00:ff': 'dir://{store}'}}}}\n"
    router.write_text(f"{pools}lookup: [near, far]\ncache: [near]\n")
    flist("pack", tree, out, "--store", store, "--router-file", router)
    assert flist("cat", out, "/etc/app.conf") == "port = 1\n"
    flist("get", out, "/", tmp_path / "got")
    assert not near.exists()


def test_everything_comes_out_as_it_went_in(tmp_path: Path) -> None:
    top, out = tmp_path / "nasty", tmp_path / "x.flist"
    nasty(top)
    flist("pack", top, out, "--store", tmp_path / "store", "--split", "cdc")
    flist("get", out, "/", tmp_path / "back", "--store", tmp_path / "store")
    before, after = look(top), look(tmp_path / "back")
    assert after.keys() == before.keys()
    assert {path: (after[path], before[path]) for path in before if after[path] != before[path]} == {}
    refused(AlreadyExists, "exists", "get", out, "/hello", tmp_path / "back", "--store", tmp_path / "store")


def test_holes_come_out_as_holes(tmp_path: Path) -> None:
    top, out = tmp_path / "tree", tmp_path / "x.flist"
    top.mkdir()
    with open(top / "sparse", "wb") as file:
        file.write(b"head")
        file.seek(1 << 29)
        file.write(b"island")
        file.truncate((1 << 30) + 17)
    flist("pack", top, out, "--store", tmp_path / "store")
    flist("get", out, "/sparse", tmp_path / "back", "--store", tmp_path / "store")
    found = (tmp_path / "back").stat()
    assert found.st_size == (1 << 30) + 17
    assert found.st_blocks * 512 < 8 << 20
    with open(tmp_path / "back", "rb") as back:
        assert back.read(5) == b"head\0"
        back.seek(1 << 29)
        assert back.read(7) == b"island\0"


def test_ignored_paths_are_left_out(tree: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "ignore"
    patterns.write_text("# no settings\n*.conf\n")
    words = ("pack", tree, tmp_path / "y", "--store", tmp_path / "s", "--ignore-file", patterns)
    flist(*words, "--ignore", "/bin/")
    assert parsed("find", tmp_path / "y") == ["/", "/etc", "/link"]
    refused(InvalidArgument, "expected fixed or cdc", *words, "--split", "other")


def test_editing_in_place(made: Path, tree: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    new = tmp_path / "new.tar"
    new.write_text("not unpacked")
    flist("edit", "put", made, new, "/etc/new", "--store", store)
    flist("edit", "put", made, tree / "etc", "/copy", "--store", store)
    flist("edit", "chmod", made, "4711", "/bin/app", "--owner", "5:6")
    flist("edit", "rm", made, "/link")
    flist("edit", "set", made, "entrypoint=[]", "gone=")
    assert flist("cat", made, "/etc/new") == "not unpacked"
    assert flist("cat", made, "/copy/app.conf") == "port = 1\n"
    stat = parsed("stat", made, "/bin/app")
    assert (stat["mode"], stat["uid"], stat["gid"]) == ("-rws--x--x", 5, 6)
    assert "/link" not in parsed("find", made)
    assert parsed("info", made)["metadata"] == {"entrypoint": "[]"}
    refused(AlreadyExists, "exists", "edit", "put", made, new, "/etc/new", "--store", store)
    refused(InvalidArgument, "not empty", "edit", "rm", made, "/etc")
    refused(InvalidArgument, "octal", "edit", "chmod", made, "9", "/etc")
    refused(InvalidArgument, "UID:GID", "edit", "chmod", made, "755", "/etc", "--owner", "root")
    refused(InvalidArgument, "KEY=VALUE", "edit", "set", made, "x")
    flist("edit", "rm", made, "/etc", "-r")
    assert parsed("diff", made, made) == []


@pytest.mark.parametrize("form", ["v2", "v3"])
def test_editing_what_is_of_an_old_format(made: Path, tree: Path, tmp_path: Path, form: str) -> None:
    old, store = tmp_path / "old", tmp_path / "store"
    flist("convert", made, old, "--to", form, "--lossy", "--store", store)
    new = tree / "new"
    new.write_text("new")
    os.utime(new, ns=(1, 1_600_000_000_000_000_001))
    put = ("edit", "put", old, new, "/etc/new", "--store", store)
    refused(FailedPrecondition, "nanoseconds", *put)
    assert parsed(*put, "--lossy")["lost"]["nanoseconds"] == ["/etc/new"]
    assert flist("cat", old, "/etc/new", "--store", store) == "new"
    for words in (("chmod", old, "600", "/etc/new"), ("mv", old, "/etc/new", "/n"), ("cp", old, "/n", "/m")):
        flist("edit", *words, "--lossy")
    flist("edit", "rm", old, "/n", "--lossy")
    flist("edit", "set", old, "a=b", "--lossy")
    assert parsed("stat", old, "/m")["mode"] == "-rw-------"
    assert parsed("check", old, "--content", "--store", store)["findings"] == []
    assert parsed("info", old)["format"] == form


def test_link_that_leads_nowhere_here_is_put(made: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/only/in/the/container")
    flist("edit", "put", made, link, "/etc/link", "--store", tmp_path / "store")
    assert parsed("stat", made, "/etc/link")["target"] == "/only/in/the/container"


@pytest.mark.root
def test_attributes_of_the_file_system_itself_are_left(tmp_path: Path) -> None:
    top, out = tmp_path / "on", tmp_path / "x.flist"
    top.mkdir()
    with Loops(tmp_path) as loops, contextlib.ExitStack() as undo:
        device = loops.make(128)
        subprocess.run(["mkfs.btrfs", "-q", device], capture_output=True, check=True)
        mount(device, str(top), "btrfs", 0, "")
        undo.callback(unmount, str(top))
        (top / "f").write_text("x")
        os.setxattr(top / "f", "btrfs.compression", b"zstd")
        os.setxattr(top / "f", "user.kept", b"1")
        flist("pack", top, out, "--store", tmp_path / "store")
    assert parsed("stat", out, "/f")["xattrs"] == {"user.kept": "31"}


def test_moving_and_copying_in_place(made: Path, tmp_path: Path) -> None:
    before = parsed("stat", made, "/bin/app")["chunks"]
    flist("edit", "mv", made, "/link", "/etc/soft")
    flist("edit", "cp", made, "/bin", "/etc/more")
    flist("edit", "chmod", made, "600", "/etc/more/app")
    flist("edit", "mv", made, "/etc", "/settings")
    paths = ["/", "/bin", "/bin/app", "/settings", "/settings/app.conf", "/settings/more"]
    assert parsed("find", made) == [*paths, "/settings/more/app", "/settings/soft"]
    assert parsed("stat", made, "/bin/app")["mode"] == "-rwxr-xr-x"
    assert parsed("stat", made, "/settings/more/app")["mode"] == "-rw-------"
    assert parsed("stat", made, "/settings/more/app")["chunks"] == before
    refused(AlreadyExists, "exists", "edit", "cp", made, "/bin/app", "/settings/app.conf")
    flist("edit", "cp", made, "/bin/app", "/settings/app.conf", "--force")
    assert parsed("stat", made, "/settings/app.conf")["size"] == 700_000
    refused(InvalidArgument, "/bin/new is /bin or in it", "edit", "mv", made, "/bin", "/bin/new")
    refused(InvalidArgument, "/bin is / or in it", "edit", "cp", made, "/", "/bin")
    refused(NotFound, "no is not in the flist", "edit", "mv", made, "/no", "/yes")
    assert parsed("check", made, "--content")["findings"] == []


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    top, out = tmp_path / "raw", tmp_path / "x.flist"
    os.makedirs(os.fsencode(top) + b"/a\xff\n/b")
    flist("pack", top, out, "--store", tmp_path / "store")
    assert [line["path"] for line in parsed("ls", out, os.fsdecode(b"a\xff\n"))] == [
        "/a\\xff\\n",
        "/a\\xff\\n/b",
    ]


BAD: dict[str, tuple[str, type[Exception], str]] = {
    "pack nothing": ("pack {tmp}/none {tmp}/y --store {tmp}/s", InvalidArgument, "no such file"),
    "pack of no archive": ("pack {tmp}/text {tmp}/y --store {tmp}/s", InvalidArgument, "text"),
    "pack into no folder": ("pack {tmp}/tree {tmp}/no/y --store {tmp}/s", FileNotFoundError, "no/y"),
    "pack into a folder": ("pack {tmp}/tree {tmp}/tree --store {tmp}/s", IsADirectoryError, "tree"),
    "convert into no folder": ("convert {made} {tmp}/no/y", FileNotFoundError, "no/y"),
    "pack: store": ("pack {tmp}/tree {tmp}/y --store gopher://x", InvalidArgument, "gopher"),
    "pack: info": ("pack {tmp}/tree {tmp}/y --store {tmp}/s --info x", InvalidArgument, "KEY=VALUE"),
    "pack: no key": ("pack {tmp}/tree {tmp}/y --store {tmp}/s --info =x", InvalidArgument, "KEY=VALUE"),
    "pack: split": ("pack {tmp}/tree {tmp}/y --store {tmp}/s --split x", InvalidArgument, "fixed or cdc"),
    "pack: no secret": (
        "pack {tmp}/tree {tmp}/y --store {tmp}/s --secret-file /dev/null",
        InvalidArgument,
        "found none",
    ),
    "pack: long secret": (
        "pack {tmp}/tree {tmp}/y --store {tmp}/s --secret-file {tmp}/text",
        InvalidArgument,
        "secret has",
    ),
    "pack: ignore file": (
        "pack {tmp}/tree {tmp}/y --store {tmp}/s --ignore-file {tmp}/none",
        FileNotFoundError,
        "none",
    ),
    "pack: pattern": ("pack {tmp}/tree {tmp}/y --store {tmp}/s --ignore /", InvalidArgument, "pattern"),
    "pack: route": ("pack {tmp}/tree {tmp}/y --store {tmp}/s --route zz-0=dir:///x", InvalidArgument, "zz"),
    "pack: router": (
        "pack {tmp}/tree {tmp}/y --store {tmp}/s --router-file {tmp}/text",
        InvalidArgument,
        "router",
    ),
    "ls of no flist": ("ls {tmp}/text", InvalidArgument, "neither a tar"),
    "ls of nothing": ("ls {tmp}/none", FileNotFoundError, "none"),
    "ls of no path": ("ls {made} /no", NotFound, "not in the flist"),
    "tree of no path": ("tree {made} /no", NotFound, "not in the flist"),
    "stat of no path": ("stat {made} /no", NotFound, "not in the flist"),
    "find: type": ("find {made} --type q", InvalidArgument, "expected one of"),
    "cat of a folder": ("cat {made} /etc", InvalidArgument, "no regular file"),
    "cat from an empty store": ("cat {made} /bin/app --store {tmp}/none", Unavailable, "not there"),
    "get over something": ("get {made} / {tmp}/text", AlreadyExists, "exists"),
    "get of no path": ("get {made} /no {tmp}/y", NotFound, "not in the flist"),
    "info of no flist": ("info {tmp}/text", InvalidArgument, "neither a tar"),
    "diff with no flist": ("diff {made} {tmp}/text", InvalidArgument, "neither a tar"),
    "merge of one": ("merge {tmp}/y {made}", InvalidArgument, "two flists or more"),
    "layer of one": ("layer {tmp}/y {made}", InvalidArgument, "two flists or more"),
    "layer with no flist": ("layer {tmp}/y {made} {tmp}/text", InvalidArgument, "neither a tar"),
    "check without a store": ("check {bare}", InvalidArgument, "give --store|does not say"),
    "prefetch to nowhere": ("prefetch {made} --into gopher://x", InvalidArgument, "gopher"),
    "convert to what is none": ("convert {made} {tmp}/y --to v9", InvalidArgument, "expected one of g8"),
    "convert without a store": ("convert {bare} {tmp}/y --to v3 --lossy", InvalidArgument, "store"),
    "put of nothing": ("edit put {made} {tmp}/none /x --store {tmp}/s", InvalidArgument, "no such file"),
    "put into no folder": ("edit put {made} {tmp}/text /no/x --store {tmp}/s", NotFound, "not in the flist"),
    "put into a file": ("edit put {made} {tmp}/text /link/x --store {tmp}/s", InvalidArgument, "no folder"),
    "put over the root": ("edit put {made} {tmp}/text / --store {tmp}/s", InvalidArgument, "name"),
    "put under no name": ("edit put {made} {tmp}/text /.. --store {tmp}/s", InvalidArgument, "name"),
    "rm of the root": ("edit rm -r {made} /", InvalidArgument, "name"),
    "rm of no path": ("edit rm {made} /no", NotFound, "not in the flist"),
    "chmod: mode": ("edit chmod {made} rwx /etc", InvalidArgument, "octal"),
    "chmod: owner": ("edit chmod {made} 755 /etc --owner 0:x", InvalidArgument, "UID:GID"),
    "set without a value": ("edit set {made} x", InvalidArgument, "KEY=VALUE"),
    "sign of no flist": ("sign {tmp}/text --key {tmp}/text", InvalidArgument, "neither a tar"),
    "sign with no key": ("sign {made} --key {tmp}/text", InvalidArgument, "key"),
    "verify with no key": ("verify {made} --key {tmp}/text", InvalidArgument, "key"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree, two flists of it (`bare` does not say where its chunks are), and a file that is nothing."""
    tmp = tmp_path_factory.mktemp("bad")
    top = planted(tmp / "tree")
    flist("pack", top, tmp / "made", "--store", tmp / "store", "--route", f"dir://{tmp}/store")
    flist("pack", top, tmp / "bare", "--store", tmp / "store")
    (tmp / "text").write_text("no flist, no key, no archive, no router: just text of some length" * 9)
    return tmp


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_changes_nothing(case: str, untouched: Path) -> None:
    line, error, message = BAD[case]
    before = sorted(os.listdir(untouched)), (untouched / "made").read_bytes()
    with pytest.raises(error, match=message):
        flist(*line.format(tmp=untouched, made=untouched / "made", bare=untouched / "bare").split())
    stored = (untouched / "s").exists()
    shutil.rmtree(untouched / "s", ignore_errors=True)
    assert not stored  # for what cannot be done
    assert (sorted(os.listdir(untouched)), (untouched / "made").read_bytes()) == before


@pytest.mark.root
@pytest.mark.fuse
def test_mount_of_no_flist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no flist" * 99)
    refused(InvalidArgument, "neither a tar", "mount", tmp_path / "text", tmp_path / "mnt")
    refused(NotFound, "none", "mount", tmp_path / "none", tmp_path / "mnt")


def test_uniting_and_comparing(made: Path, tmp_path: Path) -> None:
    other, top = tmp_path / "o.flist", tmp_path / "other"
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "app.conf").write_text("port = 2\n")
    flist("pack", top, other, "--store", tmp_path / "store")
    flist("merge", tmp_path / "merged", made, other)
    flist("layer", tmp_path / "layered", made, other)
    store = tmp_path / "store"
    assert flist("cat", tmp_path / "merged", "/etc/app.conf", "--store", store) == "port = 1\n"
    assert flist("cat", tmp_path / "layered", "/etc/app.conf", "--store", store) == "port = 2\n"
    with pytest.raises(Failed, match=r"/etc/app.conf  mtime, content"):
        flist("diff", made, tmp_path / "layered")
    refused(InvalidArgument, "two flists", "merge", tmp_path / "z", made)


def test_check_finds_what_is_missing_or_wrong(made: Path, tmp_path: Path) -> None:
    assert parsed("check", made) == {"chunks": 3, "findings": []}
    assert parsed("check", made, "--content")["findings"] == []
    chunk = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())[0]
    chunk.write_bytes(flip(chunk.read_bytes()))
    flist("check", made)
    with pytest.raises(Failed, match="do not match the id"):
        flist("check", made, "--content")
    chunk.unlink()
    with pytest.raises(Failed, match="missing"):
        flist("check", made)


def test_prefetch_fills_another_store(made: Path, tmp_path: Path) -> None:
    assert parsed("prefetch", made, "--into", tmp_path / "near")["copied"] == 3
    assert parsed("prefetch", made, "--into", tmp_path / "near")["copied"] == 0
    assert parsed("check", made, "--store", tmp_path / "near", "--content")["findings"] == []


def test_converting(made: Path, tmp_path: Path) -> None:
    flist("edit", "chmod", made, "750", "/")
    store = ("--store", tmp_path / "store")
    words = ("convert", made, tmp_path / "a", "--to", "v2", *store)
    refused(FailedPrecondition, "attributes of the root", *words)
    done = parsed("convert", made, tmp_path / "a.flist", "--to", "v2", "--lossy", *store)
    assert (done["format"], done["chunks"]) == ("v2", 3)
    flist("convert", tmp_path / "a.flist", tmp_path / "a.fl", "--to", "v3", *store)
    assert flist("cat", tmp_path / "a.fl", "/etc/app.conf", *store) == "port = 1\n"
    assert parsed("check", tmp_path / "a.fl", "--content", *store)["findings"] == []
    refused(InvalidArgument, "expected one of g8", "convert", made, tmp_path / "b", "--to", "v9")


def test_signing(made: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    public = parsed("keygen", key)["public"]
    assert key.stat().st_mode & 0o777 == 0o600
    refused(AlreadyExists, "exists", "keygen", key)
    refused(PermissionDenied, "is not signed", "verify", made, "--key", public)
    flist("sign", made, "--key", key)
    assert parsed("verify", made, "--key", f"{key}.pub")["key"] == public
    refused(PermissionDenied, "not among the allowed", "verify", made, "--key", "0" * 64)
    refused(InvalidArgument, "is a private key", "verify", made, "--key", key)
    flist("edit", "set", made, "entrypoint=[1]")
    refused(PermissionDenied, "another flist", "verify", made, "--key", public)


def test_packing_into_shards_and_out_again(tmp_path: Path) -> None:
    top, out = tmp_path / "sizes", tmp_path / "x.flist"
    top.mkdir()
    for size in (0, 100 << 10, 1 << 20, 10 << 20):
        (top / str(size)).write_bytes(random.Random(size).randbytes(size))
    shards = [f"00-7f=dir://{tmp_path}/low", f"80-ff=dir://{tmp_path}/high"]
    routes = [word for shard in shards for word in ("--route", shard)]
    flist("pack", top, out, *[word for shard in shards for word in ("--store", shard)], *routes)
    assert all(int(path.name[:2], 16) < 0x80 for path in (tmp_path / "low").rglob("*") if path.is_file())
    assert any((tmp_path / "high").iterdir())
    flist("get", out, "/", tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        path.name: path.read_bytes() for path in top.iterdir()
    }


@pytest.mark.root
@pytest.mark.fuse
def test_mounting_without_a_node(made: Path, tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "mnt"
    argv = [sys.executable, "-m", "g8tools.g8", "flist", "mount", str(made), str(target)]
    argv += ["--store", str(tmp_path / "store")]
    with subprocess.Popen(argv, cwd=TOP, stdout=subprocess.PIPE, text=True) as mounted:
        try:
            assert mounted.stdout is not None
            assert mounted.stdout.readline() == "mount starts\n"
            done = subprocess.run(["diff", "-r", "--no-dereference", tree, target], check=False, timeout=60)
            assert done.returncode == 0
        finally:
            mounted.send_signal(signal.SIGTERM)
            assert mounted.wait(60) == 0
    assert not [m for m in mounts() if m.target.startswith(str(tmp_path))]
