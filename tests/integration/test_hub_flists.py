"""Publishing and browsing flists on a real Hub process."""

import asyncio
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.hub import TOKEN, USER_TOKEN, RunningHub, hub, tiny_flist
from tests.support.redis import eventually

AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
BY_ALICE = {"Authorization": f"Bearer {USER_TOKEN}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("flists")) as started:
        yield started


async def publish(
    running: RunningHub, target: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    url = f"{running.url}/api/flist/{target}"
    headers = AUTHORISED if headers is None else headers
    async with aiohttp.ClientSession() as session, session.put(url, data=body, headers=headers) as response:
        return response.status, await response.json()


async def fetch(running: RunningHub, path: str, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
    url = f"{running.url}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def uploaded(running: RunningHub, folder: Path, **files: bytes) -> bytes:
    """An flist whose chunks are on the Hub."""
    path = folder / f"{'-'.join(files)}.flist"
    chunks = await asyncio.to_thread(tiny_flist, path, files)
    store = running.store(TOKEN)
    await store.put_many(chunks)
    await store.close()
    return await asyncio.to_thread(path.read_bytes)


async def test_published_flist_is_served(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, hello=b"world")
    digest = hashlib.blake2b(body, digest_size=32).hexdigest()
    status, answer = await publish(running, "demo/hello.flist", body)
    assert (status, answer["status"], answer["payload"]["digest"]) == (200, "success", digest)
    status, got, headers = await fetch(running, "/demo/hello.flist")
    assert (status, got, headers["ETag"]) == (200, body, f'"{digest}"')
    assert (await fetch(running, "/demo/hello.flist.digest"))[1] == digest.encode()
    assert (await fetch(running, "/demo/hello.flist.md5"))[1] == hashlib.md5(body).hexdigest().encode()
    assert (await fetch(running, "/demo/hello.flist", **{"If-None-Match": f'"{digest}"'}))[:2] == (304, b"")


async def test_head_tells_size_and_digest(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, head=b"head")
    await publish(running, "demo/head.flist", body)
    async with aiohttp.ClientSession() as session, session.head(f"{running.url}/demo/head.flist") as response:
        assert response.status == 200
        assert response.content_length == len(body)
        assert response.headers["ETag"].strip('"') == hashlib.blake2b(body, digest_size=32).hexdigest()


async def test_api_lists_what_is_published(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, listed=b"listed")
    await publish(running, "listing/one.flist", body)
    async with aiohttp.ClientSession(running.url) as session:
        async with session.get("/api/flist") as response:
            assert "listing/one.flist" in await response.json()
        async with session.get("/api/flist/listing") as response:
            (entry,) = await response.json()
        async with session.get("/api/flist/listing/one.flist") as response:
            inspected = await response.json()
        async with session.get("/api/repositories") as response:
            assert "listing" in [repository["name"] for repository in await response.json()]
    assert entry["name"] == "one.flist"
    assert entry["size"] == f"{len(body) / 1024:.2f} KB"
    assert (inspected["size"], inspected["digest"]) == (len(body), entry["digest"])


async def test_pages_list_what_is_published(running: RunningHub, tmp_path: Path) -> None:
    await publish(running, "pages/shown.flist", await uploaded(running, tmp_path, shown=b"shown"))
    for path in ("/", "/pages"):
        status, page, headers = await fetch(running, path)
        text = page.decode()
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert '<a href="/pages/shown.flist">shown.flist</a>' in text
        assert f"g8 hub pull {running.url}/pages/shown.flist" in text
        assert "<script" not in text


async def test_upload_needs_a_token(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, secret=b"secret")
    status, answer = await publish(running, "demo/no.flist", body, {})
    assert (status, answer["status"]) == (401, "error")
    assert (await fetch(running, "/demo/no.flist"))[0] == 404


async def test_user_publishes_in_the_own_repository_only(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, mine=b"mine")
    assert (await publish(running, "alice/mine.flist", body, BY_ALICE))[0] == 200
    status, answer = await publish(running, "demo/mine.flist", body, BY_ALICE)
    assert status == 403
    assert answer["message"] == "the token of alice does not publish in repository demo"


async def test_original_upload_goes_to_the_users_repository(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, form=b"form")
    url = f"{running.url}/api/flist/me/upload-flist"
    form = aiohttp.FormData()
    form.add_field("file", body, filename="any.flist", content_type="application/octet-stream")
    headers = {**BY_ALICE, "X-Original-Name": "../../form.flist"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(url, data=form) as response:
            assert (response.status, (await response.json())["status"]) == (200, "success")
        async with session.get(f"{running.url}/api/flist/me") as response:
            assert await response.json() == {"username": "alice"}
    assert (await fetch(running, "/alice/form.flist"))[1] == body


async def test_flist_with_missing_chunks_is_refused_by_name(running: RunningHub, tmp_path: Path) -> None:
    path = tmp_path / "absent.flist"
    chunks = await asyncio.to_thread(tiny_flist, path, {"a": b"never uploaded", "b": b"nor this"})
    status, answer = await publish(running, "demo/absent.flist", await asyncio.to_thread(path.read_bytes))
    assert status == 409
    assert "demo/absent.flist refused: 2 of its 2 chunks are not on this Hub" in answer["message"]
    assert all(id.hex() in answer["message"] for id in chunks)
    assert (await fetch(running, "/demo/absent.flist"))[0] == 404


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


BAD = {
    "empty": (b"", "neither a tar"),
    "text": (b"hello, I am no flist" * 100, "neither a tar"),
    "gzip of nothing": (gzip.compress(b""), "archive ends too early"),
    "no database": (archive(), "archive holds no RocksDB"),
    "parent member": (archive(**{"../../etc/passwd": b"x"}), "'../../etc/passwd' has no place in an flist"),
    "absolute member": (archive(**{"/etc/passwd": b"x"}), "has no place in an flist"),
    "not a database": (archive(CURRENT=b"MANIFEST-000001\n"), "is missing"),
    "bomb": (gzip.compress(bytes(64 << 20)), "archive"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_flist_is_refused(running: RunningHub, kind: str) -> None:
    body, message = BAD[kind]
    status, answer = await publish(running, "demo/bad.flist", body)
    assert status == 400
    assert answer["message"].startswith("flist demo/bad.flist refused: ")
    assert message in answer["message"]
    assert str(running.data) not in answer["message"]
    assert (await fetch(running, "/demo/bad.flist"))[0] == 404


async def test_truncated_flist_is_refused_and_the_old_one_stays(running: RunningHub, tmp_path: Path) -> None:
    body = await uploaded(running, tmp_path, whole=b"whole")
    await publish(running, "demo/whole.flist", body)
    for cut in (10, len(body) // 2, len(body) - 1):
        status, answer = await publish(running, "demo/whole.flist", body[:cut])
        assert status == 400, answer
    assert (await fetch(running, "/demo/whole.flist"))[1] == body


async def test_huge_flist_is_refused_before_it_is_sent(running: RunningHub) -> None:
    reader, writer = await asyncio.open_connection(*running.address)
    head = f"PUT /api/flist/demo/huge.flist HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}Content-Length: {1 << 40}\r\nExpect: 100-continue\r\n\r\n".encode())
    async with asyncio.timeout(60):
        line = await reader.readline()
        while line.split()[1] == b"100":
            await reader.readline()
            line = await reader.readline()
    writer.close()
    assert line.split()[1] in (b"400", b"413")


@pytest.mark.parametrize(
    "target",
    [
        "..%2f..%2fx/a.flist",
        "%2e%2e/a.flist",
        "demo/..%2fa.flist",
        "demo/%2e%2e.flist",
        "demo/a%00.flist",
        "demo/a%0a.flist",
        "demo/.a.flist",
        "demo/a.txt",
        "api/a.flist",
        "chunks/a.flist",
        "de%20mo/a.flist",
        f"demo/{'a' * 300}.flist",
    ],
)
async def test_hostile_names_are_refused(running: RunningHub, target: str) -> None:
    reader, writer = await asyncio.open_connection(*running.address)
    head = f"PUT /api/flist/{target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}Content-Length: 1\r\nConnection: close\r\n\r\nx".encode())
    answer = await reader.read()
    writer.close()
    assert answer.split()[1] in (b"400", b"404", b"405")
    assert b'"status":"error"' in answer
    assert b"Traceback" not in answer


async def test_readers_see_the_old_or_the_new_flist_while_it_is_replaced(
    running: RunningHub, tmp_path: Path
) -> None:
    bodies = [await uploaded(running, tmp_path, **{f"v{n}": bytes([n]) * 5000}) for n in range(4)]
    await publish(running, "race/one.flist", bodies[0])
    stop = asyncio.Event()
    seen: set[bytes] = set()

    async def read(session: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            async with session.get("/race/one.flist") as response:
                assert response.status == 200
                got = await response.read()
                assert response.headers["ETag"].strip('"') == hashlib.blake2b(got, digest_size=32).hexdigest()
                seen.add(got)

    async with aiohttp.ClientSession(running.url) as session, asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(read(session))
        results = await asyncio.gather(
            *(publish(running, "race/one.flist", bodies[n % 4]) for n in range(24))
        )
        for body in bodies[:2]:
            results.append(await publish(running, "race/one.flist", body))
            await eventually(lambda: body in seen)  # noqa: B023
        stop.set()
    assert all(status == 200 for status, _ in results)
    assert seen <= set(bodies)
    assert not list((running.data / "tmp").iterdir())
