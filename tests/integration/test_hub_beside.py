"""Signatures and start profiles beside flists on a Hub, and nodes that find them there."""

import asyncio
import hashlib
import io
import json
import subprocess
import sys
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from g8node.g8ufs.profile import Profile, format_profile, parse_profile
from tests.support.acceptance import until
from tests.support.daemon import Daemon, daemon
from tests.support.faults import flip
from tests.support.hub import TOKEN, TOP, USER_TOKEN, RunningHub, hub
from tests.support.images import busybox_tree, publish

AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("beside")) as started:
        yield started


def g8(*words: str | Path, code: int = 0) -> str:
    argv = [sys.executable, "-m", "g8tools.g8", *map(str, words)]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


class Publisher:
    """Somebody with a key, who packs, signs and pushes."""

    def __init__(self, folder: Path, hub: RunningHub, name: str) -> None:
        self._hub = hub
        self.name = name
        self.key = folder / "publisher.key"
        self.flist = folder / f"{name}.flist"
        self.store = folder / "store"
        self.url = f"{hub.url}/test/{name}.flist"
        self.public = json.loads(g8("flist", "keygen", self.key, "--json"))["public"]

    def pack(self, tree: Path) -> None:
        g8("flist", "pack", tree, self.flist, "--store", self.store)

    def sign(self) -> bytes:
        g8("flist", "sign", self.flist, "--key", self.key)
        return self.signature.read_bytes()

    @property
    def signature(self) -> Path:
        return Path(f"{self.flist}.sig")

    def push(self, *, code: int = 0) -> str:
        to = ("--hub", self._hub.url, "--repo", "test", "--token-file", self._hub.token_file)
        return g8("hub", "push", self.flist, "--chunks", self.store, *to, code=code)

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.flist.read_bytes(), digest_size=32).hexdigest()


@pytest.fixture
def publisher(tmp_path: Path, running: RunningHub, request: pytest.FixtureRequest) -> Publisher:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content")
    made = Publisher(tmp_path, running, request.node.name.replace("_", "-"))
    made.pack(tmp_path / "tree")
    return made


async def call(
    method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    headers = AUTHORISED if headers is None else headers
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=io.BytesIO(body), headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers


def api(url: str) -> str:
    return url.replace("/test/", "/api/flist/test/")


async def test_pushed_signature_is_served_and_pulled(publisher: Publisher, tmp_path: Path) -> None:
    signature = await asyncio.to_thread(publisher.sign)
    await asyncio.to_thread(publisher.push)
    status, body, headers = await call("GET", f"{publisher.url}.sig", headers={})
    assert (status, body) == (200, signature)
    again = {"If-None-Match": headers["ETag"]}
    assert (await call("GET", f"{publisher.url}.sig", headers=again))[:2] == (304, b"")
    status, body, headers = await call("HEAD", f"{publisher.url}.sig", headers={})
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(signature)))
    back = tmp_path / "back.flist"
    await asyncio.to_thread(g8, "hub", "pull", publisher.url, back, "--chunks", tmp_path / "back")
    await asyncio.to_thread(g8, "flist", "verify", back, "--key", f"{publisher.key}.pub")


async def test_signature_comes_first_and_goes_with_its_flist(publisher: Publisher, tmp_path: Path) -> None:
    first = await asyncio.to_thread(publisher.sign)
    await asyncio.to_thread(publisher.push)
    (tmp_path / "tree/file").write_text("changed")
    await asyncio.to_thread(publisher.pack, tmp_path / "tree")
    refused = await asyncio.to_thread(lambda: publisher.push(code=100))
    assert "is of another flist" in refused
    second = await asyncio.to_thread(publisher.sign)
    status, answer, _ = await call("PUT", f"{api(publisher.url)}.sig", second)
    assert (status, json.loads(answer)["published"]) == (200, False)
    assert (await call("GET", f"{publisher.url}.sig"))[1] == first  # the old flist is still the one
    await asyncio.to_thread(publisher.push)
    assert (await call("GET", f"{publisher.url}.sig"))[1] == second
    publisher.signature.unlink()
    (tmp_path / "tree/file").write_text("unsigned")
    await asyncio.to_thread(publisher.pack, tmp_path / "tree")
    await asyncio.to_thread(publisher.push)
    assert (await call("GET", f"{publisher.url}.sig"))[0] == 404


async def test_what_is_no_signature_is_refused(publisher: Publisher) -> None:
    signature = await asyncio.to_thread(publisher.sign)
    await asyncio.to_thread(publisher.push)
    target = f"{api(publisher.url)}.sig"
    other = json.loads(signature) | {"digest": "../" * 20 + "abcd"}
    forged = json.loads(signature) | {"merkle": "00" * 32}
    for wrong in (b"", b"{}", b"x" * 5000, json.dumps(other).encode(), json.dumps(forged).encode()):
        status, answer, _ = await call("PUT", target, wrong)
        assert status == 400, answer
        assert b"Traceback" not in answer
    assert (await call("PUT", target, signature, {}))[0] == 401
    assert (await call("PUT", target, signature, {"Authorization": f"Bearer {USER_TOKEN}"}))[0] == 403
    assert (await call("PUT", target, bytes(17 << 20)))[0] == 400
    assert (await call("PUT", target.replace(".flist.sig", ".sig"), signature))[0] == 400
    assert (await call("GET", f"{publisher.url}.sig"))[1] == signature


async def test_profile_is_of_one_flist(publisher: Publisher) -> None:
    await asyncio.to_thread(publisher.push)
    profile = format_profile(Profile(publisher.digest, array("I", [0])))
    status, answer, _ = await call("PUT", f"{api(publisher.url)}.profile", profile)
    assert (status, json.loads(answer)["published"]) == (200, True)
    assert (await call("GET", f"{publisher.url}.profile"))[:2] == (200, profile)
    twice = format_profile(Profile(publisher.digest, array("I", [0, 0])))
    for wrong in (b"", profile[:-1], flip(profile), b"g8prof1" + profile[7:], twice):
        assert (await call("PUT", f"{api(publisher.url)}.profile", wrong))[0] == 400


def test_flists_are_listed_without_what_lies_beside(publisher: Publisher, running: RunningHub) -> None:
    publisher.sign()
    publisher.push()
    status, body, _ = asyncio.run(call("GET", f"{running.url}/api/flist/test"))
    assert status == 200
    assert f"{publisher.name}.flist" in [row["name"] for row in json.loads(body)]
    assert not [row for row in json.loads(body) if row["name"].endswith(".sig")]


def settings(**values: Any) -> str:
    return "[g8ufs]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


@pytest.mark.root
@pytest.mark.fuse
def test_node_runs_from_a_hub_only_what_is_signed(tmp_path: Path, running: RunningHub) -> None:
    publisher = Publisher(tmp_path, running, "signed")
    tree = busybox_tree(tmp_path / "tree")
    publisher.pack(tree)
    publisher.push()
    config = settings(require_signature=True, allowed_keys=[publisher.public])
    start = {"root": publisher.url, "nics": [], "command": "echo hi"}
    with daemon(tmp_path / "agent", config) as node:
        refused = node.job("corex.create", start)
        assert (refused["state"], refused["code"]) == ("ERROR", 403)
        assert "is not signed, and this node requires signed flists" in refused["data"]
        publisher.sign()
        publisher.push()
        assert node.job("corex.create", start)["state"] == "SUCCESS"
        (tree / "data/new").write_text("new")
        publisher.pack(tree)
        publisher.signature.unlink()
        publisher.push()
        assert node.job("corex.create", start)["code"] == 403
        publisher.sign()
        publisher.push()
        assert node.job("corex.create", start)["state"] == "SUCCESS"


@pytest.mark.root
@pytest.mark.fuse
def test_a_second_node_fetches_first_what_the_first_node_read(tmp_path: Path) -> None:
    with hub(tmp_path) as running:
        url = publish(running, busybox_tree(tmp_path / "tree"), "profiled")
        with daemon(tmp_path / "first", settings(around_bytes=0)) as node:
            refused = profile(node, url, running, code=100)
            assert "has no profile here" in refused
            container = int(node.job("corex.create", {"root": url, "nics": []})["data"])
            assert node.run_in(container, "md5sum /data/5")["state"] == "SUCCESS"
            node.direct("corex.terminate", container=container)
            kept = tmp_path / "first/root/var/cache/g8node/profiles"
            until(lambda: any(path.suffix == "" for path in kept.glob("*")), "the profile")
            assert "chunks first" in profile(node, url, running)
        _, served, _ = asyncio.run(call("GET", f"{url}.profile"))
        assert len(parse_profile(served).order) >= 5
        with daemon(tmp_path / "second", settings(around_bytes=0)) as node:
            container = int(node.job("corex.create", {"root": url, "nics": []})["data"])
            chunks = len(parse_profile(served).order)
            until(lambda: node.direct("g8ufs.stats")["cache"]["chunks"] >= chunks, "the profile's chunks")
            running.process.terminate()
            running.process.wait(60)
            assert node.run_in(container, "md5sum /data/5")["state"] == "SUCCESS"
            assert node.run_in(container, "md5sum /data/2")["state"] == "ERROR"


def profile(node: Daemon, url: str, running: RunningHub, *, code: int = 0) -> str:
    where = ("--node", f"127.0.0.1:{node.port}", "--password-file", node.folder / "password")
    return g8("hub", "profile", url, "--token-file", running.token_file, *where, code=code)
