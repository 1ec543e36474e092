"""The NBD server and clients that are hostile, slow, many, or gone."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from g8node.errors import NotFound
from g8node.linux.diskfile import KernelFile
from g8node.nbd.export import Export
from g8node.nbd.server import Server
from g8node.nbd.tls import server_context
from g8node.runtime import blocking
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import Record, Storage
from g8node.vdisk.vdisks import Vdisks
from g8node.wire import nbd
from g8node.wire import nbd_handshake as hs
from tests.support import vdisks as support
from tests.support.keys import TestAuthority
from tests.support.nbd import CLIENT_FLAGS, go, option, request
from tests.support.redis import eventually
from tests.support.vdisks import G8, Client, run, served

SIZE = 8 << 20


@pytest.fixture
async def vdisks(tmp_path: Path) -> AsyncIterator[Vdisks]:
    vdisks = Vdisks(str(tmp_path / "vdisks"))
    await vdisks.start()
    await vdisks.create(Record(id="vd", type="db", size=SIZE))
    yield vdisks
    await vdisks.close()
    blocking.close()


@pytest.fixture
async def path(vdisks: Vdisks, tmp_path: Path) -> AsyncIterator[str]:
    server = Server(vdisks, handshake_s=20.0)
    await server.listen_unix(str(tmp_path / "s"))
    yield str(tmp_path / "s")
    await server.close()


async def in_thread(work: object, *arguments: object) -> object:
    return await asyncio.to_thread(work, *arguments)  # type: ignore[arg-type]


def _errors(path: str, extended: bool) -> None:
    client = Client(path, extended=extended)
    assert client.size == SIZE
    top = (1 << 64) - 1
    refused = [
        ((nbd.CMD_READ, SIZE, 1), nbd.EINVAL),
        ((nbd.CMD_READ, top, 1), nbd.EINVAL),
        ((nbd.CMD_READ, top - 4095, 4096), nbd.EINVAL),
        ((nbd.CMD_READ, 0, 0), nbd.EINVAL),
        ((nbd.CMD_READ, 0, (32 << 20) + 1), nbd.EINVAL),
        ((nbd.CMD_TRIM, 4096, SIZE), nbd.EINVAL),
        ((nbd.CMD_WRITE_ZEROES, 4096, SIZE), nbd.ENOSPC),
        ((77, 0, 0), nbd.EINVAL),
    ]
    for (kind, offset, length), error in refused:
        assert client.call(kind, offset, length).error == error
    assert client.call(nbd.CMD_READ, 0, 512, flags=1 << 12).error == nbd.EINVAL
    assert client.call(nbd.CMD_WRITE, SIZE - 1, payload=b"xx").error == nbd.ENOSPC
    assert client.call(nbd.CMD_WRITE, 0, payload=bytes((32 << 20) + 1)).error == nbd.EINVAL
    client.write(512, b"alive")
    assert client.read(510, 9) == b"\0\0alive\0\0"
    client.close()


@pytest.mark.parametrize("extended", [False, True])
async def test_bad_request_gets_its_error_and_the_connection_lives(path: str, extended: bool) -> None:
    await in_thread(_errors, path, extended)


def _block_status(path: str) -> None:
    client = Client(path, extended=True)
    client.write(1 << 20, b"x" * 4096)
    reply = client.call(nbd.CMD_BLOCK_STATUS, 0, SIZE)
    assert reply.extents == [(1 << 20, 3), (4096, 0), (SIZE - (1 << 20) - 4096, 3)]
    assert client.call(nbd.CMD_BLOCK_STATUS, 0, SIZE, flags=nbd.CMD_FLAG_REQ_ONE).extents == [(1 << 20, 3)]
    client.close()


async def test_block_status_with_extended_headers(path: str) -> None:
    await in_thread(_block_status, path)


def _half_a_request(path: str) -> None:
    half, other = Client(path), Client(path)
    half.socket.sendall(request(nbd.CMD_WRITE, 0, 4096, payload=b"z" * 100)[:60])
    other.write(0, b"o" * 4096)
    half.close()
    assert other.read(0, 4096) == b"o" * 4096
    other.close()


async def test_half_a_request_changes_nothing(path: str) -> None:
    await in_thread(_half_a_request, path)


def _garbage(path: str) -> None:
    bad, other = Client(path), Client(path)
    bad.socket.sendall(b"\xff" * 64)
    assert bad.closed_by_server()
    assert other.read(0, 10) == bytes(10)
    for sent in (b"\0\0\0\0", CLIENT_FLAGS + b"GET / HTTP/1.1\r\n\r\n", CLIENT_FLAGS + go(length_of_name)):
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(60)
        raw.connect(path)
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass
        raw.close()
    assert other.read(0, 10) == bytes(10)
    bad.close()
    other.close()


length_of_name = "x" * 4097


async def test_garbage_ends_its_own_connection_only(path: str) -> None:
    await in_thread(_garbage, path)


def _slow_loris(path: str) -> bool:
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(60)
    raw.connect(path)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # cut even before this is sent, perhaps
        raw.sendall(CLIENT_FLAGS + option(hs.OPT_LIST)[:7])
        while raw.recv(100):
            pass
    raw.close()
    return True


async def test_slow_handshake_is_cut(vdisks: Vdisks, tmp_path: Path) -> None:
    server = Server(vdisks, handshake_s=0.2)
    await server.listen_unix(str(tmp_path / "slow"))
    assert await in_thread(_slow_loris, str(tmp_path / "slow"))
    await server.close()


def _many(path: str, count: int) -> None:
    clients = [Client(path) for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(nbd.CMD_WRITE, number * 512, payload=struct.pack(">I", number) * 128)
    for client in clients:
        assert client.reply().error == 0
    for number, client in enumerate(reversed(clients)):
        wanted = len(clients) - 1 - number
        assert client.read((wanted + 1) % count * 512, 4) == struct.pack(">I", (wanted + 1) % count)
    for client in clients:
        client.close()


async def test_a_thousand_connections_share_a_vdisk(path: str) -> None:
    await in_thread(_many, path, 1000)


async def test_connection_above_the_limit_is_closed(vdisks: Vdisks, tmp_path: Path) -> None:
    server = Server(vdisks, connections_max=2)
    await server.listen_unix(str(tmp_path / "few"))

    def three() -> None:
        first, second = Client(str(tmp_path / "few")), Client(str(tmp_path / "few"))
        with pytest.raises(ConnectionError):
            Client(str(tmp_path / "few"))
        assert first.read(0, 5) == bytes(5)
        first.close()
        second.close()

    await in_thread(three)
    await server.close()


def _greedy(path: str) -> None:
    """Ask for 1 GiB and take nothing; others are served meanwhile, and all of it comes in the end."""
    greedy, other = Client(path), Client(path)
    # In one piece: the server stops reading at some time, and a hundred small pieces fill a unix socket.
    greedy.socket.sendall(b"".join([greedy.prepare(nbd.CMD_READ, 0, 8 << 20) for _ in range(128)]))
    for _ in range(50):
        assert other.read(4096, 4096) == bytes(4096)
    for _ in range(128):
        reply = greedy.reply()
        assert reply.error == 0
        assert sum(map(len, reply.data.values())) == 8 << 20
    greedy.close()
    other.close()


async def test_client_that_takes_no_replies_holds_up_nobody(path: str) -> None:
    await in_thread(_greedy, path)


async def test_limits_of_a_vdisk_hold_over_all_connections(vdisks: Vdisks, path: str) -> None:
    await vdisks.limit("vd", Limits(iops=200, burst_s=0.005))

    def read(client: Client) -> None:
        for _ in range(50):
            client.read(0, 512)
        client.close()

    loop = asyncio.get_running_loop()
    before = loop.time()
    clients = [await asyncio.to_thread(Client, path) for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(read, client) for client in clients))
    assert loop.time() - before >= 0.95


async def test_grown_vdisk_is_seen_by_the_next_connection(vdisks: Vdisks, path: str) -> None:
    def scenario(client: Client) -> None:
        again = Client(path)
        assert again.size == 2 * SIZE
        again.write(SIZE, b"new")
        assert client.call(nbd.CMD_READ, SIZE, 3).error == nbd.EINVAL
        assert client.read(0, 3) == bytes(3)
        again.close()
        client.close()

    client = await asyncio.to_thread(Client, path)
    await vdisks.resize("vd", 2 * SIZE)
    await in_thread(scenario, client)


@pytest.mark.parametrize(
    ("storage", "template"), [("plain", ""), ("dedup", ""), ("plain", "vd"), ("dedup", "vd")]
)
async def test_tmp_vdisk_begins_anew_when_all_have_left_in_order(
    vdisks: Vdisks, path: str, storage: Storage, template: str
) -> None:
    async def leave(client: Client, vdisk: str = "tmp") -> None:
        client.send(nbd.CMD_DISC)
        assert await in_thread(client.closed_by_server)
        client.close()
        await gone(vdisks, vdisk)

    async def shows(data: bytes) -> Client:
        client = await asyncio.to_thread(Client, path, "tmp")
        assert await in_thread(client.read, 0, 8) == data
        return client

    empty = bytes(8)
    if template:
        empty = b"template"
        filled = await asyncio.to_thread(Client, path)
        await in_thread(filled.write, 0, empty)
        await leave(filled, "vd")
    record = Record(id="tmp", type="tmp", size=SIZE, storage=storage, template=template)
    await vdisks.create(record)
    await vdisks.create(msgspec.structs.replace(record, id="beside", type="db"))
    beside = await asyncio.to_thread(Client, path, "beside")
    client = await shows(empty)
    await in_thread(client.write, 0, b"scribble", nbd.CMD_FLAG_FUA)
    client.close()  # and may come back
    await gone(vdisks, "tmp")
    await leave(await shows(b"scribble"))  # who only looked has nothing to take away
    client = await shows(b"scribble")
    await in_thread(client.write, 4096, b"more")
    await leave(client)
    client = await shows(empty)
    assert await in_thread(client.read, 4096, 4) == bytes(4)
    await in_thread(client.write, 0, b"scratch!")
    await leave(client)
    await leave(await shows(empty))
    beside.close()
    assert (await vdisks.info("tmp"))["used"] < 1 << 20
    assert await vdisks.check("tmp") == []
    await vdisks.delete("tmp")


async def test_tmp_vdisk_is_kept_while_one_of_its_clients_may_come_back(vdisks: Vdisks, path: str) -> None:
    await vdisks.create(Record(id="tmp", type="tmp", size=SIZE))
    one, other = await vdisks.open("tmp"), await vdisks.open("tmp")
    assert await one.write_many([(0, memoryview(b"scribble"))]) == [None]
    one.count(nbd.CMD_WRITE, 1, 8)
    await vdisks.leave("tmp", one, in_order=False)
    await vdisks.leave("tmp", other, in_order=True)
    client = await asyncio.to_thread(Client, path, "tmp")
    assert await in_thread(client.read, 0, 8) == b"scribble"
    client.close()


async def gone(vdisks: Vdisks, vdisk: str) -> None:
    await eventually(lambda: vdisk not in vdisks.counters(), "a vdisk that nobody uses", 60)


async def test_reads_of_one_batch_that_must_wait_are_answered_beside_the_others(
    vdisks: Vdisks, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = KernelFile.read_many_now
    batches = []

    def some(file: KernelFile, reads: list[tuple[int, memoryview]]) -> list[bool]:
        """The second and the third of four, and so on, are not in memory."""
        batches.append(len(reads))
        ready = [number % 4 in (0, 3) for number in range(len(reads))]
        done = iter(now(file, [read for read, is_there in zip(reads, ready, strict=True) if is_there]))
        return [is_there and next(done) for is_there in ready]

    def scenario() -> None:
        client = Client(path)
        data = random.Random(5).randbytes(40 * 4096)
        client.write(0, data)
        asked = [client.prepare(nbd.CMD_READ, number * 4096, 4096) for number in range(40)]
        client.socket.sendall(b"".join(asked))
        found = {}
        for _ in asked:
            found |= client.reply().data
        assert b"".join(found[at] for at in sorted(found)) == data
        client.close()

    monkeypatch.setattr(KernelFile, "read_many_now", some)
    await in_thread(scenario)
    assert max(batches) > 4


class Failing:
    """The exports of a server whose one export fails."""

    def __init__(self, inner: Vdisks, error: Exception) -> None:
        self._inner = inner
        self._error = error

    def names(self) -> list[tuple[str, str]]:
        return []

    async def describe(self, name: str) -> hs.Description:
        if name != "vd":
            raise NotFound("no such export")
        return await self._inner.describe(name)

    async def open(self, name: str) -> Export:
        export = await self._inner.open(name)

        async def fail(*_: object) -> None:
            raise self._error

        export.read_many_now = lambda reads: [False] * len(reads)  # type: ignore[method-assign]
        export.read = export.flush = fail  # type: ignore[method-assign]
        export.write_durably = fail  # type: ignore[attr-defined]
        return export

    async def leave(self, name: str, export: Export, *, in_order: bool) -> None:
        await self._inner.leave(name, export, in_order=in_order)


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(5, "disk"), nbd.EIO), (OSError(28, "full"), nbd.ENOSPC)]
)
async def test_failure_of_a_vdisk_is_a_reply(
    vdisks: Vdisks, tmp_path: Path, error: Exception, code: int
) -> None:
    server = Server(Failing(vdisks, error))
    await server.listen_unix(str(tmp_path / "f"))

    def scenario() -> None:
        client = Client(str(tmp_path / "f"))
        for _ in range(2):
            assert client.call(nbd.CMD_READ, 0, 512).error == code
            assert client.call(nbd.CMD_FLUSH).error == code
            assert client.call(nbd.CMD_WRITE, 0, payload=b"x", flags=nbd.CMD_FLAG_FUA).error == code
        assert client.call(nbd.CMD_WRITE, 0, payload=b"x").error == 0
        client.close()

    await in_thread(scenario)
    await server.close()


def test_server_ends_cleanly_with_clients_connected(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        client = server.client()
        client.write(0, b"kept")
        server.stop()
        assert client.closed_by_server()
        client.close()
        server.start()
        again = server.client()
        assert again.read(0, 4) == b"kept"
        again.close()


def test_server_takes_all_the_descriptors_that_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most shells and services begin with a soft limit of 1024, whatever the hard one is."""
    monkeypatch.setattr(support, "G8", ("prlimit", "--nofile=100:1000", *G8))
    with served(tmp_path) as server:
        clients = [server.client() for _ in range(150)]
        for client in clients:
            client.write(0, b"served")
            client.close()


def test_folder_in_use_is_refused_to_others(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        done = server.g8("list", check=False)
        assert done.returncode == 100
        assert "in use by another process" in done.stderr


@pytest.fixture
async def secured(vdisks: Vdisks, tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """URI of a server that insists on TLS, and the folder of a client's certificates."""
    authority = TestAuthority(tmp_path)
    certificate, key = authority.issue("localhost")
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "ca-cert.pem").write_bytes(authority.path.read_bytes())
    mine, mine_key = authority.issue("client")
    (folder / "client-cert.pem").write_bytes(mine.read_bytes())
    (folder / "client-key.pem").write_bytes(mine_key.read_bytes())
    context = server_context(str(certificate), str(key), str(authority.path))
    server = Server(vdisks, tls=context, tls_only=True, handshake_s=20.0)
    port = await server.listen_tcp("127.0.0.1", 0)
    yield f"localhost:{port}/vd", folder
    await server.close()


async def test_tls_serves_data_there_and_back(secured: tuple[str, Path], tmp_path: Path) -> None:
    where, folder = secured
    uri = f"nbds://{where}?tls-certificates={folder}"
    (tmp_path / "in").write_bytes(bytes(range(256)) * (SIZE // 256))
    await in_thread(run, "nbdcopy", str(tmp_path / "in"), uri)
    await in_thread(run, "nbdcopy", uri, str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


async def test_client_without_tls_is_refused(secured: tuple[str, Path]) -> None:
    where, _ = secured

    def refused() -> str:
        return run("nbdinfo", f"nbd://{where}", check=False).stderr

    assert "server replied with error" in str(await in_thread(refused))


async def test_client_without_a_certificate_is_refused(secured: tuple[str, Path], tmp_path: Path) -> None:
    where, folder = secured
    (folder / "client-cert.pem").unlink()
    (folder / "client-key.pem").unlink()

    def code() -> int:
        return run("nbdinfo", f"nbds://{where}?tls-certificates={folder}", check=False).returncode

    assert await in_thread(code) != 0
