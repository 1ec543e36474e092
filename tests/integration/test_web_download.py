"""web.download from a real HTTP server: whole, or not at all (spec core0-protocol 4.4 and 7)."""

import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.rundelay import RunDelay

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DATA = os.urandom(3 << 20)
ENDED = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        getattr(self, self.path.strip("/").partition("/")[0])()

    def _answer(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self) -> None:
        self._answer(200, ("Content-Length", str(len(DATA))), body=DATA)

    def unsized(self) -> None:
        self._answer(200, body=DATA)

    def short(self) -> None:
        self._answer(200, ("Content-Length", str(len(DATA))), body=DATA[:-1])

    def empty(self) -> None:
        self._answer(200, ("Content-Length", "0"))

    def status(self) -> None:
        self._answer(int(self.path.rpartition("/")[2]), ("Content-Length", "5"), body=b"sorry")

    def endless(self) -> None:
        self._answer(200, body=b"begin")
        ENDED.wait(120)

    def once(self) -> None:
        self._answer(302, ("Location", "/file"), ("Content-Length", "0"))

    def circle(self) -> None:
        self._answer(302, ("Location", "/circle"), ("Content-Length", "0"))

    def elsewhere(self) -> None:
        self._answer(302, ("Location", "file:///etc/passwd"), ("Content-Length", "0"))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    ENDED.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        before, delay = len(running.log()), RunDelay(running.pid)
        yield running
        delayed, log = delay.seconds(), running.log()[before:]
        assert "Traceback" not in log
        stalls = [float(found) for found in re.findall(r"the event loop stalled .*seconds=([\d.]+)", log)]
        assert not [stall for stall in stalls if stall - delayed > 0.05], log


def failed(node: Daemon, url: str, destination: Path, **more: Any) -> tuple[int, str]:
    """Code and message; what was there before is still there, and nothing else."""
    (destination.parent / "old").write_text("old")
    before = sorted(os.listdir(destination.parent))
    result = node.job("web.download", {"url": url, "destination": str(destination), **more})
    assert result["state"] == "ERROR", result
    assert sorted(os.listdir(destination.parent)) == before
    return result["code"], json.loads(result["data"])


@pytest.mark.parametrize("path", ["file", "unsized", "once"])
def test_file_arrives_whole_with_its_mode(node: Daemon, web: str, tmp_path: Path, path: str) -> None:
    target = tmp_path / "target"
    target.write_text("what was there before")
    assert node.direct("web.download", url=f"{web}/{path}", destination=str(target)) == str(target)
    assert target.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o660
    assert os.listdir(tmp_path) == ["target"]


def test_empty_file_is_a_file(node: Daemon, web: str, tmp_path: Path) -> None:
    node.direct("web.download", url=f"{web}/empty", destination=f"{tmp_path}/target")
    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize(
    ("status", "code"), [(404, 404), (410, 404), (403, 403), (400, 400), (500, 503), (503, 503), (204, 503)]
)
def test_status_decides(node: Daemon, web: str, tmp_path: Path, status: int, code: int) -> None:
    got, message = failed(node, f"{web}/status/{status}", tmp_path / "old")
    assert (got, str(status) in message, "url" in message) == (code, True, True)
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("path", ["file", "unsized"])
def test_size_is_bounded(node: Daemon, web: str, tmp_path: Path, path: str) -> None:
    code, message = failed(node, f"{web}/{path}", tmp_path / "old", max_bytes=len(DATA) - 1)
    assert (code, "max_bytes" in message) == (400, True)
    node.direct("web.download", url=f"{web}/{path}", destination=f"{tmp_path}/new", max_bytes=len(DATA))


def test_answer_that_ends_early_leaves_nothing(node: Daemon, web: str, tmp_path: Path) -> None:
    assert failed(node, f"{web}/short", tmp_path / "old")[0] == 503


def test_download_that_takes_too_long_leaves_nothing(node: Daemon, web: str, tmp_path: Path) -> None:
    target = {"url": f"{web}/endless", "destination": f"{tmp_path}/target"}
    assert node.job("web.download", target, max_time=1)["state"] == "TIMEOUT"
    deadline = time.monotonic() + 60
    while os.listdir(tmp_path):
        assert time.monotonic() < deadline, os.listdir(tmp_path)
        time.sleep(0.02)


def test_redirects_are_bounded_and_stay_on_the_web(node: Daemon, web: str, tmp_path: Path) -> None:
    assert failed(node, f"{web}/circle", tmp_path / "old")[0] == 503
    assert failed(node, f"{web}/elsewhere", tmp_path / "old")[0] == 400


def test_server_that_is_not_there_is_503(node: Daemon, tmp_path: Path) -> None:
    code, message = failed(node, "http://127.0.0.1:1/x", tmp_path / "old")
    assert (code, message.startswith("url: ")) == (503, True)


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://", "http:///x"])
def test_url_of_another_kind_is_400(node: Daemon, tmp_path: Path, url: str) -> None:
    code, message = failed(node, url, tmp_path / "old")
    assert (code, "url" in message) == (400, True)


def test_destination_that_cannot_be_is_refused_first(node: Daemon, web: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert failed(node, f"{web}/file", tmp_path / "folder")[0] == 400
    result = node.job("web.download", {"url": f"{web}/file", "destination": "/dev/null"})
    assert (result["code"], "destination" in result["data"]) == (400, True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    result = node.job("web.download", {"url": f"{web}/file", "destination": f"{tmp_path}/none/target"})
    assert (result["code"], "destination" in result["data"]) == (404, True)


def test_link_at_the_destination_is_followed(node: Daemon, web: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    node.direct("web.download", url=f"{web}/file", destination=f"{tmp_path}/link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == DATA


@pytest.mark.parametrize("missing", ["url", "destination"])
def test_both_arguments_are_needed(node: Daemon, web: str, tmp_path: Path, missing: str) -> None:
    arguments = {"url": f"{web}/file", "destination": f"{tmp_path}/x"}
    del arguments[missing]
    result = node.job("web.download", arguments)
    assert (result["code"], missing in result["data"]) == (400, True)
