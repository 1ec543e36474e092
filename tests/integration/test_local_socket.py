"""The local socket of the whole daemon: one JSON request a connection, one JSON result."""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def container(node: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    tree = busybox_tree(tmp_path_factory.mktemp("tree") / "root")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        root = publish(images, tree, "busybox")
        created = node.job("corex.create", {"root": root, "host_network": True}, tags=["web", "blue"])
        id = int(json.loads(created["data"]))
        yield id
        node.direct("corex.terminate", container=id)


def opened(node: Daemon) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(LIMIT_S)
    peer.connect(str(node.folder / "root/run/core.sock"))
    return peer


def said(peer: socket.socket) -> bytes:
    """Everything up to the end, which is a reset when the node did not wait for all that was sent."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while got := peer.recv(1 << 20):
            data += got
    return data


def sent(node: Daemon, data: bytes) -> dict[str, Any]:
    with opened(node) as peer:
        with contextlib.suppress(BrokenPipeError):  # refused before anything was said: why is there to read
            peer.sendall(data)
        answer: dict[str, Any] = json.loads(said(peer))
        return answer


def ask(node: Daemon, command: str, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    outer = {name: fields.pop(name) for name in ("sync", "container") if name in fields}
    content = {"command": command, "arguments": arguments or {}, **fields}
    return sent(node, json.dumps({"sync": True, **outer, "content": content}).encode())


def clients(node: Daemon) -> int:
    return int(node.direct("core.state")["local"]["clients"])


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_only_root_may_open_it(node: Daemon) -> None:
    found = os.stat(node.folder / "root/run/core.sock")
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)


def test_sync_answers_with_the_result(node: Daemon) -> None:
    answer = ask(node, "core.ping", id="local-1")
    assert (answer["id"], answer["state"], answer["level"], answer["container"]) == (
        "local-1",
        "SUCCESS",
        20,
        0,
    )
    assert json.loads(answer["data"]).startswith("PONG")
    process = ask(node, "bash", {"script": "echo out; echo err >&2; exit 3"})
    assert (process["state"], process["code"], process["streams"]) == ("ERROR", 1003, ["out\n", "err\n"])
    assert process["id"]


def test_async_answers_at_once_and_names_the_job(node: Daemon) -> None:
    answer = ask(node, "core.system", {"name": "sleep", "args": ["600"]}, sync=False, id="slow")
    assert (answer["id"], answer["state"], json.loads(answer["data"])) == ("slow", "SUCCESS", "slow")
    assert node.direct("job.list", id="slow")[0]["cmd"]["arguments"]["args"] == ["600"]
    assert node.direct("job.kill", id="slow", signal=9) is True
    assert node.result("slow")["state"] == "ERROR"


def test_id_that_is_known_answers_with_its_one_result(node: Daemon, tmp_path: Path) -> None:
    script = {"script": f"echo once >> {tmp_path}/ran; echo $$"}
    first, second = ask(node, "bash", script, id="twice"), ask(node, "bash", script, id="twice")
    assert first == second
    assert (tmp_path / "ran").read_text() == "once\n"
    other = ask(node, "core.ping", id="twice")
    assert (other["state"], other["code"]) == ("ERROR", 409)
    pushed = node.job("bash", script, id="twice")  # and the queue's clients get that one, too
    assert pushed == first


def test_unknown_command_is_told(node: Daemon) -> None:
    assert ask(node, "no.such")["state"] == "UNKNOWN_CMD"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[1]", "expected a JSON object"),
        (b"core.ping\n", "expected a JSON object"),
        (b"{}", "content"),
        (b'{"content":1}', "command"),
        (b'{"content":{"command":1}}', "command"),
        (b'{"sync":"yes","content":{"command":"core.ping"}}', "sync"),
        (b'{"sync":true,"container":"99","content":{"command":"core.ping"}}', "container '99'"),
        (b'{"sync":true,"container":"no,such","content":{"command":"core.ping"}}', "container 'no,such'"),
        (b'{"content":{"id":"x:flag","command":"core.ping"}}', "id"),
        (b"{" + b'"a":[' * 20000 + b"]" * 20000 + b"}", "request"),
        (b"{" + bytes(17 << 20), "expected at most"),
    ],
)
def test_wrong_requests_are_answered(node: Daemon, data: bytes, text: str) -> None:
    with opened(node) as peer:
        try:
            peer.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            assert len(data) > 16 << 20  # it did not wait for the rest
        try:
            answer = json.loads(said(peer))
        except json.JSONDecodeError:
            assert len(data) > 16 << 20
            return
    assert (answer["state"], answer["level"]) == ("ERROR", 20)
    assert text in answer["streams"][1] == json.loads(answer["data"])
    assert ask(node, "core.ping")["state"] == "SUCCESS"


def test_request_may_come_in_pieces_and_be_followed_by_anything(node: Daemon) -> None:
    data = json.dumps({"sync": True, "content": {"command": "core.ping", "tags": ['}"{', "\\"]}}).encode()
    for cut in range(1, len(data), 7):
        with opened(node) as peer:
            peer.sendall(data[:cut])
            peer.sendall(data[cut:] + b"}}} rest")
            assert json.loads(said(peer))["tags"] == ['}"{', "\\"]
    with opened(node) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        assert json.loads(said(peer))["state"] == "SUCCESS"
    with opened(node) as peer:
        peer.sendall(data[:-1])
        peer.shutdown(socket.SHUT_WR)
        assert "ends in the middle" in json.loads(said(peer))["data"]


def test_peer_that_hangs_up_frees_its_place_and_its_job_runs_on(node: Daemon) -> None:
    wait_until(lambda: clients(node) == 0)
    with opened(node) as peer:
        content = {"id": "left", "command": "core.system", "arguments": {"name": "sleep", "args": ["600"]}}
        peer.sendall(json.dumps({"sync": True, "content": content}).encode())
        wait_until(lambda: clients(node) == 1)
    wait_until(lambda: clients(node) == 0)
    assert node.direct("job.kill", id="left", signal=9) is True


def test_too_many_peers_are_told_so(node: Daemon) -> None:
    """They wait for one job, for as long as it takes."""
    content = {"id": "crowd", "command": "core.system", "arguments": {"name": "sleep", "args": ["600"]}}
    with contextlib.ExitStack() as held:
        peers = [held.enter_context(opened(node)) for _ in range(64)]
        for peer in peers:
            peer.sendall(json.dumps({"sync": True, "content": content}).encode())
        wait_until(lambda: clients(node) == 64 and code_of(ask(node, "core.ping")) == 503)
        for peer in peers[:8]:
            peer.close()
        wait_until(lambda: code_of(ask(node, "core.ping")) == 0)
        assert node.direct("job.kill", id="crowd", signal=9) is True
        assert {code_of(json.loads(said(peer))) for peer in peers[8:]} == {999}
    wait_until(lambda: clients(node) == 0)


def code_of(answer: dict[str, Any]) -> int:
    return int(answer["code"])


def test_peer_that_says_nothing_is_hung_up_on(node: Daemon) -> None:
    with opened(node) as peer:
        assert "no complete request" in json.loads(said(peer))["data"]


def test_many_peers_at_once(node: Daemon) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: answers.append(ask(node, "bash", {"script": f"echo {n}"})["streams"][0])
        )
        for n in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(answers, key=int) == [f"{n}\n" for n in range(40)]


@pytest.mark.parametrize("named", ["id", "number", "tag", "tags"])
def test_containers_answer(node: Daemon, container: int, named: str) -> None:
    where = {"id": str(container), "number": container, "tag": "web", "tags": "blue, web"}[named]
    answer = ask(
        node, "bash", {"script": "cat /data/0 | head -c 3; exit 4"}, container=where, id=f"in-{named}"
    )
    assert (answer["id"], answer["container"], answer["code"]) == (f"in-{named}", container, 1004)
    assert answer["streams"][0] == "AAA"
    later = ask(node, "core.ping", container=where, sync=False)
    assert later["container"] == container
    assert node.result(later["id"])["state"] == "SUCCESS"


def test_it_is_gone_when_the_node_is(tmp_path: Path) -> None:
    with daemon(tmp_path / "node") as node:
        path = node.folder / "root/run/core.sock"
        assert path.exists()
        assert node.stop() == 0
        assert not path.exists()
