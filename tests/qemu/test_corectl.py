"""corectl in the image, and the names reboot and poweroff, which are links to it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g8tools.g8 import cli
from g8tools.g8.client import Client
from tests.support.vm import END_S, NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    """With a timer of the kernel's, and with settings of which none can be taken."""
    append = ["softdog", "g8.main.nonsense=1", "g8.gate.max_clients=many", 'quoted="never closed']
    with node(tmp_path_factory.mktemp("vm"), append=append) as booted:
        yield booted


def shell(vm: NodeVm, script: str) -> dict[str, Any]:
    return vm.job("bash", {"script": script})


def test_corectl_asks_core0_over_the_local_socket(vm: NodeVm) -> None:
    done = shell(
        vm, "stat -c '%a %u' /var/run/core.sock; corectl ping; corectl execute sh -c 'echo in; exit 7'"
    )
    assert done["code"] == 1007, done
    mode, answer, inner = done["streams"][0].splitlines()
    assert (mode, inner) == ("600 0", "in")
    assert answer.startswith('"PONG Version: ')


def test_programs_of_jobs_are_asked_for_by_name(vm: NodeVm) -> None:
    kill = "until corectl job kill slow --signal 9; do sleep 0.1; done"  # 409 before it has its process
    done = shell(vm, f"corectl --async --id slow execute sleep 600 && {kill}; corectl info os")
    assert done["state"] == "SUCCESS", done
    assert "kernelVersion:" in done["streams"][0]
    assert vm.result("slow")["state"] == "ERROR"


def test_bad_settings_do_not_stop_a_boot(vm: NodeVm) -> None:
    assert vm.job("core.ping", {})["state"] == "SUCCESS"
    assert "main.nonsense: unknown key, dropped" in vm.vm.console()


def test_client_reaches_a_booted_node(vm: NodeVm, tmp_path: Path) -> None:
    """What an agent cannot show: control groups, the firmware's tables, services."""
    with Client("127.0.0.1", vm.ports[6379], vm.password, ssl=False, timeout=180) as client:
        group = client.cgroup
        assert group.list() == {}
        group.ensure("memory", "box")
        group.ensure("cpuset", "box")
        assert group.list() == {"cpuset": ["box"], "memory": ["box"]}
        sleeper = client.system("sleep 600", id="member")
        deadline = time.monotonic() + 90
        while not (pid := client.job.list("member")[0]["pid"]):
            assert time.monotonic() < deadline
        assert group.tasks("memory", "box") == []
        group.task_add("memory", "box", pid)
        assert group.tasks("memory", "box") == [pid]
        assert group.memory("box", 64 << 20) == {"mem": 64 << 20, "swap": 0}
        assert group.cpuset("box", cpus="0")["cpus"] == "0"
        group.task_remove("memory", "box", pid)
        group.reset("memory", "box")
        assert group.memory("box")["mem"] > 200 << 20
        for subsystem in ("memory", "cpuset"):
            group.remove(subsystem, "box")  # type: ignore[arg-type]
        client.job.kill("member", 9)
        assert sleeper.get().code == 999
        (section, *_) = client.info.dmi("bios")["sections"]
        assert section["typenum"] == 0
        assert {row["id"] for row in client.service.list()} >= {"syslogd", "klogd"}
        (tmp_path / "f").write_bytes(b"over there")
        client.filesystem.upload_file("/tmp/f", str(tmp_path / "f"))
        assert client.system("cat /tmp/f").get().stdout == "over there"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["info"], "memory"),
        (["info", "dmi"], "Vendor"),
        (["service", "list"], "syslogd"),
        (["state"], "redis"),
    ],
)
def test_tool_reaches_a_booted_node(
    vm: NodeVm, words: list[str], text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text(vm.password)
    where = ["--node", f"127.0.0.1:{vm.ports[6379]}", "--password-file", str(tmp_path / "password")]
    assert cli.main([*words, *where, "--timeout", "180"]) == 0
    assert text in capfd.readouterr().out


def test_poweroff_is_corectl_and_ends_the_machine(vm: NodeVm) -> None:
    deadline = time.monotonic() + 90
    while vm.direct("core.state")["watchdog"]["device"] != "Software Watchdog":
        assert time.monotonic() < deadline, vm.direct("core.state")["watchdog"]
        time.sleep(0.2)
    done = shell(vm, "readlink -f /sbin/reboot; readlink -f /sbin/poweroff")
    assert done["streams"][0] == "/usr/bin/corectl\n" * 2, done
    # By its path: busybox's shell has a poweroff of its own, which tells process 1 by a signal.
    vm.gate.rpush("core:default", '{"id":"end","command":"bash","arguments":{"script":"/sbin/poweroff"}}')
    vm.vm.wait_end(END_S)
    console = vm.vm.console()
    assert "shutting down" in console
    assert "watchdog did not stop" not in console
    assert "panic" not in console.lower()
    assert "Traceback" not in console
