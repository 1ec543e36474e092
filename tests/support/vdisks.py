"""A real `g8 vdisk serve` in a process of its own, and a plain blocking NBD client for it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from g8node.runtime import blocking
from g8node.vdisk.record import Record, Storage
from g8node.vdisk.vdisks import Vdisks
from g8node.wire import nbd
from g8node.wire import nbd_handshake as hs
from tests.support.nbd import CLIENT_FLAGS, Reply, ReplyReader, contexts, go, option, request

DEADLINE_S = 60.0
PROGRAM_S = 300.0
"""A client may write and verify for long on a busy machine."""
G8 = (sys.executable, "-m", "g8tools.g8")


class Served:
    """The server's process; `uri` names an export for real clients."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "vdisks"

    def source(self) -> tuple[str, str]:
        """Which vdisks."""
        return "--data", str(self.data)

    def g8(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`g8 vdisk` on the folder; while it is served, that is refused."""
        argv = [*G8, "vdisk", *words, "--data", str(self.data)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_S)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def uri(self, name: str = "vd") -> str:
        return f"nbd+unix:///{name}?socket={self.socket}"

    def start(self) -> None:
        words = ["vdisk", "serve", *self.source(), "--socket", str(self.socket), *self._options]
        with open(self.folder / "serve.log", "ab") as log:
            self.process = subprocess.Popen([*G8, *words], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(PROGRAM_S) == 0, self.log()
        assert "Traceback" not in self.log(), self.log()

    def client(self, name: str = "vd", **modes: bool) -> "Client":
        return Client(str(self.socket), name, **modes)


class ServedConfig(Served):
    """The same for a configuration file, whose text may be replaced while it is served."""

    def __init__(self, folder: Path, text: str, *options: str) -> None:
        super().__init__(folder, *options)
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.yml"
        self.places = ""
        """etcd, in place of the file."""
        self.replace(text)

    def replace(self, text: str) -> None:
        fresh = self.folder / "config.new"
        fresh.write_text(text)
        fresh.replace(self.config)

    def source(self) -> tuple[str, str]:
        return "--config", self.places or str(self.config)

    @contextlib.contextmanager
    def running(self) -> Iterator["ServedConfig"]:
        self.start()
        try:
            yield self
            self.stop()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.kill()


@contextlib.contextmanager
def served(
    folder: Path,
    sizes: dict[str, int] | None = None,
    *,
    options: tuple[str, ...] = (),
    storage: Storage = "plain",
) -> Iterator[Served]:
    """Vdisks of these sizes, served."""
    server = Served(folder, *options)
    asyncio.run(_create(server.data, sizes or {"vd": 64 << 20}, storage))
    server.start()
    try:
        yield server
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


async def _create(data: Path, sizes: dict[str, int], storage: Storage) -> None:
    vdisks = Vdisks(str(data))
    await vdisks.start()
    for vdisk, size in sizes.items():
        await vdisks.create(Record(id=vdisk, type="db", size=size, storage=storage))
    await vdisks.close()
    blocking.close()


def run(*argv: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """A real client; its output when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_S)
    assert done.returncode == 0 or not check, f"{argv}:\n{done.stdout}{done.stderr}"
    return done


class Client:
    """One connection; requests are answered one after the other unless sent with `send`."""

    def __init__(
        self,
        address: str | tuple[str, int],
        name: str = "vd",
        *,
        structured: bool = True,
        extended: bool = False,
        begin: bool = True,
    ) -> None:
        """`address`: a unix socket's path, or host and port."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(DEADLINE_S)
        self._extended = extended
        self._cookie = 0
        self._reads: dict[int, tuple[int, int]] = {}
        self._reader = ReplyReader(self.receive, self._reads)
        self.size = 0
        self.flags = 0
        try:
            self.socket.connect(address)
            assert self.receive(18)[:8] == hs.INIT_MAGIC
            if begin:
                self.begin(name, structured or extended)
        except BaseException:
            self.close()
            raise

    def begin(self, name: str, structured: bool) -> None:
        self.socket.sendall(CLIENT_FLAGS)
        options = [option(hs.OPT_STRUCTURED_REPLY)] if structured else []
        options += [option(hs.OPT_EXTENDED_HEADERS)] if self._extended else []
        options += [contexts(name, nbd.BASE_ALLOCATION)] if structured else []
        self.socket.sendall(b"".join(options) + go(name))
        while True:
            number, kind, body = self.option_reply()
            assert not kind >> 31, (number, hex(kind), body)
            if number == hs.OPT_GO and kind == hs.REP_INFO and body[:2] == b"\0\0":
                self.size = int.from_bytes(body[2:10], "big")
                self.flags = int.from_bytes(body[10:12], "big")
            if number == hs.OPT_GO and kind == hs.REP_ACK:
                return

    def option_reply(self) -> tuple[int, int, bytes]:
        head = self.receive(20)
        assert int.from_bytes(head[:8], "big") == hs.REPLY_MAGIC
        number, kind, length = (int.from_bytes(head[at : at + 4], "big") for at in (8, 12, 16))
        return number, kind, self.receive(length)

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError(f"closed after {len(data)} of {count} bytes")
            data += more
        return bytes(data)

    def send(self, kind: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> int:
        self.socket.sendall(self.prepare(kind, offset, length, payload, flags))
        return self._cookie

    def prepare(
        self, kind: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0
    ) -> bytes:
        """A request that the caller sends, with others perhaps."""
        self._cookie += 1
        if kind == nbd.CMD_READ:
            self._reads[self._cookie] = offset, length
        return request(
            kind,
            offset,
            length,
            flags=flags,
            cookie=self._cookie,
            payload=payload,
            extended=self._extended,
        )

    def reply(self) -> Reply:
        return self._reader.next()

    def call(
        self, kind: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0
    ) -> Reply:
        cookie = self.send(kind, offset, length, payload, flags)
        reply = self.reply()
        assert reply.cookie == cookie
        return reply

    def read(self, offset: int, length: int) -> bytes:
        reply = self.call(nbd.CMD_READ, offset, length)
        assert reply.error == 0, reply
        return b"".join(reply.data[at] for at in sorted(reply.data))

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        assert self.call(nbd.CMD_WRITE, offset, payload=data, flags=flags).error == 0

    def flush(self) -> None:
        assert self.call(nbd.CMD_FLUSH).error == 0

    def closed_by_server(self) -> bool:
        """Whether nothing but the end comes."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()
