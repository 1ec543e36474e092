"""pprof.*, rtinfo.* and zerotier.*: profiles of the node, and programs that a node has or has not."""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from g8node.errors import Conflict
from g8node.runtime.profiler import Profiler
from tests.support.daemon import Daemon, daemon, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]

RTINFO = """#!/bin/sh
echo "$@"
trap 'exit 0' TERM
while :; do sleep 0.1; done
"""
ZEROTIER = """#!/bin/sh
case "$*" in
"-j listnetworks") echo '[{"id": "8056c2e21c000001", "status": "OK"}]' ;;
"-j info") echo '{"address": "1234567890", "online": true}' ;;
"join 8056c2e21c000001") echo 200 join OK ;;
*) echo "404 leave $2"; exit 2 ;;
esac
"""
EXTENSION = """
[extension."say.it"]
binary = "/bin/echo"
args = ["it is {what}"]
env = { SECRET = "never shown" }

[extension."say.nothing"]
bynary = "/bin/echo"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An agent that has rtinfo-client and zerotier-cli: in a mount namespace of its own."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "sbin").mkdir()
    for name, text in (("rtinfo-client", RTINFO), ("zerotier-cli", ZEROTIER)):
        program = folder / "sbin" / name
        program.write_text(text)
        program.chmod(0o755)
    enter = f'mount --make-rprivate / && mount --bind {folder}/sbin /usr/local/sbin && exec "$@"'
    config = f'{EXTENSION}\n[globals]\ncache = "{folder}/elsewhere"\n'
    with daemon(folder, config, prefix=["unshare", "-m", "sh", "-c", enter, "sh"]) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("bare")) as running:
        yield running


def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


def refused(node: Daemon, command: str, /, **arguments: object) -> int:
    result = node.job(command, arguments)
    assert result["state"] == "ERROR", result
    return int(result["code"])


def test_time_of_the_node_is_profiled(node: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "cpu"
    assert node.direct("pprof.cpu.start", file=str(file)) is None
    assert refused(node, "pprof.cpu.start", file=str(tmp_path / "other")) == 409
    until(lambda: [node.job("core.ping") for _ in range(20)], "pings")
    assert node.direct("pprof.cpu.stop") is None
    lines = file.read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r".+;.+ \d+", line) for line in lines), lines[:5]
    assert any(line.startswith("MainThread;") and "main.py" in line for line in lines)
    assert any(line.startswith("g8-watchdog;") for line in lines)
    assert refused(node, "pprof.cpu.stop") == 409


def test_profile_that_cannot_be_written_is_refused_before_it_begins(node: Daemon) -> None:
    assert refused(node, "pprof.cpu.start", file="/nonexistent/x") == 500
    assert refused(node, "pprof.cpu.stop") == 409
    assert refused(node, "pprof.mem.write", file="/") == 500


def test_objects_of_the_node_are_told(node: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "mem"
    assert node.direct("pprof.mem.write", file=str(file)) is None
    head, *rows = file.read_text().splitlines()
    assert head == "count bytes type"
    sizes = [int(row.split()[1]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert any(row.endswith(" builtins.dict") for row in rows)


def test_memory_of_the_node_is_told(node: Daemon) -> None:
    stat = node.direct("pprof.mem.stat")
    assert 10 << 20 < stat["Alloc"] < stat["Sys"]
    assert stat["HeapObjects"] > 10_000
    assert stat["threads"] > 1
    assert len(stat["generations"]) == 3


def test_profiler_bounds_what_it_keeps_and_ends() -> None:
    profiler = Profiler()
    with pytest.raises(Conflict):
        profiler.stop()
    stop = threading.Event()

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            stop.wait()

    thread = threading.Thread(target=deep, args=(sys.getrecursionlimit() // 2,), name="deep;one")
    thread.start()
    profiler.start()
    until(lambda: profiler._counts, "samples")
    stop.set()
    thread.join()
    text = profiler.stop()
    assert not profiler.running
    assert max(line.count(";") for line in text.splitlines()) <= 66
    profiler.start()
    profiler.stop()


def test_rtinfo_client_is_started_listed_and_stopped(node: Daemon) -> None:
    arguments = {"host": "10.1.2.3", "port": 8999, "disks": ["sd", "nvme"]}
    assert node.direct("rtinfo.list") == {}
    assert node.direct("rtinfo.start", **arguments) is None
    assert node.direct("rtinfo.list") == {"10.1.2.3:8999": arguments}
    assert refused(node, "rtinfo.start", host="10.1.2.3", port=8999) == 406
    node.direct("rtinfo.start", host="10.1.2.3", port=9000)
    pid = eventually(lambda: node.direct("job.list", id="rtinfo/10.1.2.3:8999")[0]["pid"])
    until(lambda: "rtinfo-client" in Path(f"/proc/{pid}/cmdline").read_text(), "the program")
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:-1]
    assert words[-8:] == ["--host", "10.1.2.3", "--port", "8999", "--disk", "sd", "--disk", "nvme"]
    assert node.direct("rtinfo.stop", host="10.1.2.3", port=8999) is None
    until(lambda: list(node.direct("rtinfo.list")) == ["10.1.2.3:9000"], "its end")
    node.direct("rtinfo.stop", host="10.1.2.3", port=9000)
    until(lambda: node.direct("rtinfo.list") == {}, "its end")
    assert node.direct("rtinfo.stop", host="10.1.2.3", port=1) is None


def test_node_without_rtinfo_client_says_so(bare: Daemon) -> None:
    result = bare.job("rtinfo.start", {"host": "h", "port": 1})
    assert result["code"] == 503
    assert "rtinfo-client is not installed on this node" in result["data"]
    assert bare.direct("rtinfo.list") == {}
    assert bare.direct("rtinfo.stop", host="h", port=1) is None


def test_zerotier_of_the_node_is_asked_and_told(node: Daemon) -> None:
    network = "8056c2e21c000001"
    assert node.direct("zerotier.join", network=network) is None
    assert node.direct("zerotier.list") == [{"id": network, "status": "OK"}]
    assert node.direct("zerotier.info")["online"] is True
    assert refused(node, "zerotier.leave", network=network) == 1002
    assert refused(node, "zerotier.join", network="x") == 400


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("zerotier.join", {"network": "8056c2e21c000001"}, 503),
        ("zerotier.leave", {"network": "8056c2e21c000001"}, 503),
        ("zerotier.list", {}, 503),
        ("zerotier.info", {}, 503),
        ("corex.zerotier.info", {"container": 77}, 500),
        ("corex.zerotier.list", {"container": 77}, 500),
    ],
)
def test_node_without_zerotier_says_so(
    bare: Daemon, command: str, arguments: dict[str, object], code: int
) -> None:
    result = bare.job(command, arguments)
    assert result["code"] == code
    assert ("zerotier-cli is not installed on this node" in result["data"]) == (code == 503)


def test_cache_is_where_the_settings_say(node: Daemon) -> None:
    assert (node.folder / "elsewhere/chunks").is_dir()
    assert not (node.folder / "root/var/cache/g8node/chunks").exists()


def test_extension_of_the_main_file_is_a_command(node: Daemon) -> None:
    done = node.job("say.it", {"what": "so"})
    assert done["streams"][0] == "it is so\n"
    log = node.log()
    assert "settings: extension.say.nothing.bynary: unknown key, ignored" in log
    assert "extension.say.nothing: " in log
    shown = node.direct("config.get")["extension"]
    assert shown["say.it"] == {"binary": "/bin/echo", "args": ["it is {what}"]}
    assert "never shown" not in str(shown)
