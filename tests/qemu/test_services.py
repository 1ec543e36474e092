"""The boot services of the image, and one more that fails."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ntp import ntp_server
from tests.support.vm import NodeVm, initrd_with, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

AHEAD_S = 100  # less than redis keeps results: its times to live are of the wall clock
FAILING = """
[startup.broken]
name = "bash"
args.script = "echo the disk is gone >&2; exit 7"
after = ["init"]
running_delay = -1

[startup.behind]
name = "core.ping"
after = ["broken"]
"""


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    folder = tmp_path_factory.mktemp("vm")
    initrd = initrd_with(folder, "etc/g8node/startup/99-test.toml", FAILING, 0o644)
    with ntp_server(AHEAD_S) as port:
        append = ["hostname=box7", f"ntp=10.0.2.2:{port}"]
        with node(folder, append=append, initrd=initrd) as booted:
            until(lambda: services(booted)["stage"] == "done", "all slices", 180)
            yield booted


def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.2)


def services(vm: NodeVm) -> dict[str, Any]:
    state: dict[str, Any] = vm.direct("core.state")["services"]
    return state


def shell(vm: NodeVm, script: str) -> str:
    done = vm.job("bash", {"script": script})
    assert done["state"] == "SUCCESS", done
    return str(done["streams"][0])


def test_status_lines_on_the_serial_console_tell_how_the_node_does(vm: NodeVm) -> None:
    def told(line: str) -> None:
        until(lambda: f"status: {line}" in vm.vm.console(), line, 60)

    told("host name: box7")
    told("version: 0.")
    told("boot: done")
    told("failed broken: exit code 7: the disk is gone")
    told("last error: services: service broken: failed (exit code 7: the disk is gone)")
    told("gate: 0.0.0.0:6379 (no TLS)")
    told("gateway: 10.0.2.2 on eth0")
    told("internet: not tested")
    assert "link eth0: 10.0.2.15/24" in vm.vm.console()
    assert vm.vm.console().count("status: ") < 40
    assert "status: uptime" not in vm.vm.console()


def test_shipped_services_do_well(vm: NodeVm) -> None:
    rows = {row["id"]: row["state"] for row in vm.direct("service.list")}
    assert rows == {
        "syslogd": "running",
        "klogd": "running",
        "crash": "done",
        "hostname": "done",
        "time": "running",
        "protect": "skipped",
        "broken": "failed",
        "behind": "skipped",
    }


def test_failing_service_shows_its_reason_on_the_serial_console(vm: NodeVm) -> None:
    console = vm.vm.console()
    assert "service broken: failed" in console
    assert "exit code 7: the disk is gone" in console
    assert services(vm)["failed"] == {"broken": "exit code 7: the disk is gone"}
    assert vm.result("broken")["code"] == 1007
    assert "Traceback" not in console


def test_log_of_core0_is_in_a_file_that_can_be_turned(vm: NodeVm) -> None:
    until(lambda: "service broken: failed" in shell(vm, "cat /var/log/core.log*"), "the record", 60)
    vm.direct("logger.reopen")
    shell(vm, "logger done")
    old = "cat /var/log/core.log.2* 2>/dev/null || true"
    until(lambda: "service broken" in shell(vm, old), "the old file", 60)
    assert "service broken: failed" not in shell(vm, "cat /var/log/core.log 2>/dev/null || true")


def test_messages_of_kernel_and_programs_are_kept(vm: NodeVm) -> None:
    # klogd begins with what the kernel has said so far; the file may have been turned since.
    until(lambda: "Linux version" in shell(vm, "cat /var/log/messages*"), "the kernel's first words", 60)
    shell(vm, "logger -t me a word")
    until(lambda: "me: a word" in shell(vm, "cat /var/log/messages*"), "the message", 60)


def test_message_log_is_bounded(vm: NodeVm) -> None:
    line = "l=$(head -c 900 /dev/zero | tr '\\0' x)"
    shell(vm, f"{line}; i=0; while [ $i -lt 7000 ]; do echo $l; i=$((i+1)); done | logger")
    total_kb = int(shell(vm, "cat /var/log/messages* | wc -c")) / 1024
    assert 1024 < total_kb < 4.2 * 1024


def test_host_name_of_the_kernel_command_line_is_known(vm: NodeVm) -> None:
    assert shell(vm, "hostname; cat /etc/hostname; grep box7 /etc/hosts") == "box7\nbox7\n127.0.1.1 box7\n"


def test_clock_is_that_of_the_time_server(vm: NodeVm) -> None:
    until(lambda: abs(float(shell(vm, "date +%s")) - time.time() - AHEAD_S) < 5, "the server's time", 120)


def test_protected_service_comes_back(vm: NodeVm) -> None:
    shell(vm, "kill -9 $(pidof klogd)")
    until(lambda: "service klogd: ended, is started again" in vm.vm.console(), "its end", 60)
    until(lambda: bool(shell(vm, "pidof klogd || true")), "klogd", 60)


def test_service_commands_work_as_direct_commands(vm: NodeVm) -> None:
    row = json.loads(vm.gate.execute_command("service.restart", "id=syslogd"))
    assert row["state"] == "running"
    assert row["pid"] > 1
