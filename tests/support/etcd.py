"""A real etcd on loopback."""

import base64
import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from g8tools.up.vm import free_port

DEADLINE_S = 60.0


class EtcdProcess:
    """One server, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._peer = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.up()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._port}"

    def up(self) -> None:
        client, peer = f"http://{self.place}", f"http://127.0.0.1:{self._peer}"
        argv = ["etcd", "--name", "one", "--data-dir", str(self._folder / "data"), "--log-level", "error"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        argv += ["--initial-cluster", f"one={peer}"]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, "etcd does not answer"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.call("/v3/kv/range", {"key": _encoded("x")})
            return True
        return False

    def call(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://{self.place}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def put(self, values: dict[str, str]) -> None:
        """All at once."""
        puts = [
            {"request_put": {"key": _encoded(key), "value": _encoded(text)}} for key, text in values.items()
        ]
        self.call("/v3/kv/txn", {"success": puts})

    def delete(self, key: str) -> None:
        self.call("/v3/kv/deleterange", {"key": _encoded(key)})

    def compact(self) -> None:
        """Forget all revisions but the last."""
        revision = self.call("/v3/kv/range", {"key": _encoded("x")})["header"]["revision"]
        self.call("/v3/kv/compaction", {"revision": revision, "physical": True})

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def etcd_server(folder: Path) -> Iterator[EtcdProcess]:
    server = EtcdProcess(folder)
    try:
        yield server
    finally:
        server.kill()


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
