"""Promote, rename, remove, links and tags on a real Hub process."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from g8node.flist.signature import load_key, new_key, sign
from tests.support.hub import OLD_TOKEN, OTHER_TOKEN, TOKEN, USER_TOKEN, RunningHub, hub, tiny_flist

ALICE, BOB, ANYONE, OLD = USER_TOKEN, OTHER_TOKEN, TOKEN, OLD_TOKEN


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("changes")) as started:
        yield started


class Asker:
    """Calls of one Hub."""

    def __init__(self, session: aiohttp.ClientSession, running: RunningHub, tmp: Path) -> None:
        self.session = session
        self.running = running
        self.tmp = tmp

    async def ask(self, call: str, path: str, token: str = "", data: bytes | None = None) -> tuple[int, Any]:
        """(status, what it says)."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.request(call, f"/api/flist{path}", headers=headers, data=data) as answer:
            return answer.status, await answer.json()

    async def done(self, call: str, path: str, token: str) -> dict[str, str]:
        status, said = await self.ask(call, path, token)
        assert (status, said["status"]) == (200, "success"), said
        payload: dict[str, str] = said["payload"]
        return payload

    async def refused(self, status: int, message: str, call: str, path: str, token: str = ALICE) -> None:
        got, said = await self.ask(call, path, token)
        assert (got, said["status"]) == (status, "error"), said
        assert message in said["message"]

    async def get(self, path: str) -> bytes | None:
        async with self.session.get(path) as answer:
            assert answer.status in (200, 404)
            return await answer.read() if answer.status == 200 else None

    async def publish(self, place: str, content: bytes, token: str = ANYONE) -> bytes:
        """An flist of one file; its bytes."""
        file = self.tmp / "x.flist"
        chunks = await asyncio.to_thread(tiny_flist, file, {"file": content})
        store = self.running.store(TOKEN)
        await store.put_many(chunks)
        await store.close()
        body = await asyncio.to_thread(file.read_bytes)
        status, said = await self.ask("PUT", f"/{place}", token, body)
        assert status == 200, said
        return body


@pytest.fixture
async def asker(running: RunningHub, tmp_path: Path) -> AsyncIterator[Asker]:
    async with aiohttp.ClientSession(running.url) as session:
        yield Asker(session, running, tmp_path)


async def test_promoted_flist_is_independent_of_its_source(asker: Asker) -> None:
    first = await asker.publish("bob/app.flist", b"first")
    key = load_key(new_key())
    digest = hashlib.blake2b(first, digest_size=32).digest()
    signature = sign(key, digest, bytes(32))
    await asker.ask("PUT", "/bob/app.flist.sig", ANYONE, signature)
    done = await asker.done("POST", "/me/promote/bob/app.flist/mine.flist", ALICE)
    assert done == {"name": "mine.flist", "target": "bob/app.flist"}
    await asker.publish("bob/app.flist", b"second")
    assert await asker.get("/alice/mine.flist") == first
    assert await asker.get("/alice/mine.flist.sig") == signature
    assert await asker.get("/bob/app.flist.sig") is None
    await asker.done("POST", "/me/promote/bob/app.flist/mine.flist", ALICE)
    await asker.done("GET", "/me/promote/bob/app.flist/mine.flist", ALICE)  # as old clients do
    assert await asker.get("/alice/mine.flist") == await asker.get("/bob/app.flist") != first
    assert await asker.get("/alice/mine.flist.sig") is None
    await asker.refused(404, "no flist bob/none.flist", "POST", "/me/promote/bob/none.flist/x.flist")
    assert not list((asker.running.data / "tmp").iterdir())


async def test_renamed_and_removed(asker: Asker) -> None:
    body = await asker.publish("alice/old.flist", b"renamed")
    await asker.publish("alice/there.flist", b"replaced")
    signature = sign(load_key(new_key()), hashlib.blake2b(body, digest_size=32).digest(), bytes(32))
    await asker.ask("PUT", "/alice/old.flist.sig", ALICE, signature)
    await asker.done("POST", "/me/old.flist/rename/there.flist", ALICE)
    assert await asker.get("/alice/there.flist") == body
    assert await asker.get("/alice/there.flist.sig") == signature
    assert await asker.get("/alice/old.flist") is None
    await asker.done("GET", "/me/there.flist/rename/there.flist", ALICE)
    await asker.done("POST", "/me/promote/alice/there.flist/twin.flist", ALICE)
    await asker.done("POST", "/me/twin.flist/rename/there.flist", ALICE)  # one file under both names
    assert await asker.get("/alice/twin.flist") is None
    assert await asker.get("/alice/there.flist") == body
    await asker.done("DELETE", "/me/there.flist", ALICE)
    assert await asker.get("/alice/there.flist") is None
    assert await asker.get("/alice/there.flist.sig") is None
    await asker.refused(404, "no flist alice/there.flist", "DELETE", "/me/there.flist")
    await asker.refused(404, "no flist alice/there.flist", "POST", "/me/there.flist/rename/x.flist")


async def test_link_follows_what_it_stands_for(asker: Asker) -> None:
    first = await asker.publish("bob/base.flist", b"base 1")
    await asker.publish("alice/own.flist", b"own")
    await asker.done("POST", "/me/base.flist/crosslink/bob/base.flist", ALICE)
    await asker.done("POST", "/me/base.flist/link/latest.flist", ALICE)
    for name in ("base.flist", "latest.flist"):
        assert await asker.get(f"/alice/{name}") == first
        assert await asker.get(f"/alice/{name}.md5") == hashlib.md5(first).hexdigest().encode()
    second = await asker.publish("bob/base.flist", b"base 2")
    assert await asker.get("/alice/latest.flist") == second
    _, listed = await asker.ask("GET", "/alice")
    rows = {row["name"]: (row["type"], row.get("target")) for row in listed}
    assert rows["latest.flist"] == ("symlink", "alice/base.flist")
    assert rows["own.flist"] == ("regular", None)
    _, found = await asker.ask("GET", "/me/latest.flist", ALICE)
    assert (found["type"], found["md5"]) == ("symlink", hashlib.md5(second).hexdigest())
    assert "alice/latest.flist" in (await asker.ask("GET", ""))[1]
    assert b"latest.flist" in (await asker.get("/alice") or b"")
    await asker.refused(409, "own.flist is an flist", "POST", "/me/own.flist/crosslink/bob/base.flist")
    await asker.refused(409, "link to itself", "POST", "/me/latest.flist/link/latest.flist")
    await asker.refused(409, "link to alice/base.flist", "POST", "/me/promote/bob/base.flist/latest.flist")
    assert (await asker.ask("PUT", "/alice/latest.flist", ALICE, second))[0] == 409
    await asker.done("DELETE", "/me/base.flist", ALICE)
    assert await asker.get("/alice/latest.flist") is None
    assert await asker.get("/bob/base.flist") == second
    await asker.refused(404, "no flist", "POST", "/me/x.flist/crosslink/bob/gone.flist")


async def test_tag_round_trip(asker: Asker) -> None:
    bodies = [await asker.publish(f"bob/part{number}.flist", b"%d" % number) for number in range(2)]
    for number in range(2):
        path = f"/me/v1/piece{number}.flist/tag/bob/part{number}.flist"
        done = await asker.done("POST", path, ALICE)
        assert done == {"name": f"v1/piece{number}.flist", "target": f"bob/part{number}.flist"}
    _, members = await asker.ask("GET", "/alice/tags/v1")
    assert [(row["name"], row["target"]) for row in members] == [
        ("piece0.flist", "bob/part0.flist"),
        ("piece1.flist", "bob/part1.flist"),
    ]
    assert await asker.get("/alice/tags/v1/piece1.flist") == bodies[1]
    assert await asker.get("/alice/tags/v1/piece1.flist.md5") == hashlib.md5(bodies[1]).hexdigest().encode()
    await asker.done("POST", "/me/latest/crosstag/alice/v1", BOB)
    assert (await asker.ask("GET", "/bob/latest/taglink"))[1] == {"target": "alice/v1"}
    assert await asker.get("/bob/tags/latest/piece0.flist") == bodies[0]
    rows = [*(await asker.ask("GET", "/alice"))[1], *(await asker.ask("GET", "/bob"))[1]]
    types = {row["name"]: row["type"] for row in rows}
    assert (types["v1"], types["latest"]) == ("tag", "taglink")
    await asker.done("DELETE", "/me/v1/piece0.flist/tag/bob/part0.flist", ALICE)
    assert await asker.get("/alice/tags/v1/piece0.flist") is None
    await asker.refused(404, "no flist piece0", "DELETE", "/me/v1/piece0.flist/tag/bob/part0.flist")
    await asker.done("DELETE", "/me/v1/piece1.flist/tag/bob/part1.flist", ALICE)
    assert (await asker.ask("GET", "/bob/tags/latest"))[0] == 404
    await asker.done("DELETE", "/me/latest", BOB)
    await asker.refused(404, "no tag", "POST", "/me/latest/crosstag/alice/v1", BOB)


async def test_changes_need_a_token_with_a_user_that_has_not_expired(asker: Asker) -> None:
    await asker.publish("bob/safe.flist", b"safe")
    path = "/me/promote/bob/safe.flist/taken.flist"
    await asker.refused(401, "a known token is needed", "POST", path, "")
    await asker.refused(401, "the token has expired", "POST", path, OLD)
    await asker.refused(400, "names no user", "POST", path, ANYONE)
    await asker.refused(401, "a known token is needed", "DELETE", "/me/safe.flist", "")
    await asker.refused(404, "no flist alice/safe.flist", "DELETE", "/me/safe.flist")
    assert await asker.get("/bob/safe.flist") is not None
    assert await asker.get("/bob/taken.flist") is None


@pytest.mark.parametrize(
    "path",
    [
        "/me/promote/..%2fbob/safe.flist/x.flist",
        "/me/promote/bob/safe.flist/..%2f..%2fx.flist",
        "/me/promote/bob/safe.flist/x.txt",
        "/me/safe.flist/rename/%2e%2e.flist",
        "/me/..%2fx.flist/crosslink/bob/safe.flist",
        "/me/v%2f1/x.flist/tag/bob/safe.flist",
        "/me/..%2f/x.flist/tag/bob/safe.flist",
        "/me/promote/x.flist/tag/bob/safe.flist",
        "/me/x/crosstag/bob/..%2f",
    ],
)
async def test_hostile_names_are_refused(asker: Asker, path: str) -> None:
    url = aiohttp.client.URL(f"{asker.running.url}/api/flist{path}", encoded=True)
    headers = {"Authorization": f"Bearer {ALICE}"}
    async with asker.session.post(url, headers=headers) as answer:
        assert answer.status in (400, 404, 405)
        assert (await answer.json())["status"] == "error"


async def test_read_only_hub_changes_nothing(tmp_path: Path) -> None:
    with hub(tmp_path, read_only=True) as running:
        async with aiohttp.ClientSession(running.url) as session:
            asker = Asker(session, running, tmp_path)
            await asker.refused(403, "read-only", "POST", "/me/promote/a/b.flist/c.flist")
            await asker.refused(403, "read-only", "DELETE", "/me/a.flist")
