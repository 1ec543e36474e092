"""What a booted node survives (a memory hog) and what ends it with a word (a hang, a fault in process 1)."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.vm import BOOT_S, END_S, NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

TIMEOUT_S = 20
HOG = "b = []\nwhile True: b.append(bytearray(1 << 20))"
# Stop the thread of the loop, and only that one, while it waits in epoll_wait or epoll_pwait and leaves the
# lock of Python to the others (120 is the offset of orig_rax in struct user).
STOP = """
import ctypes, os, time
c = ctypes.CDLL(None)
c.ptrace(0x4206, 1, 0, 0)  # PTRACE_SEIZE
while True:
    c.ptrace(0x4207, 1, 0, 0)  # PTRACE_INTERRUPT
    os.waitpid(1, 0x40000000)  # __WALL
    if c.ptrace(3, 1, ctypes.c_void_p(120), 0) in (232, 281):
        break
    c.ptrace(7, 1, 0, 0)  # PTRACE_CONT
    time.sleep(0.01)
"""
# It stays stopped for as long as the tracer lives.
FREEZE = STOP + "time.sleep(600)"
# Let it go on at address 0 (128 is the offset of rip).
FAULT = STOP + "c.ptrace(6, 1, ctypes.c_void_p(128), ctypes.c_void_p(0)); c.ptrace(17, 1, 0, 0)"


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    append = [f"g8.watchdog.timeout_s={TIMEOUT_S}", "g8.screen.console=tty2"]
    options = ["-device", "i6300esb"]
    with node(tmp_path_factory.mktemp("vm"), memory_mb=640, append=append, options=options) as booted:
        yield booted


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    with hub(folder) as running:
        yield publish(running, busybox_tree(folder / "tree"), "busybox").replace("127.0.0.1", "10.0.2.2")


def shell(vm: NodeVm, script: str) -> str:
    return str(vm.job("bash", {"script": script})["streams"][0])


def pids(vm: NodeVm) -> str:
    return shell(vm, "pidof redis-server; cat /proc/$(pidof redis-server)/oom_score_adj")


def trace(vm: NodeVm, code: str) -> None:
    """Run Python code that uses ptrace(2) on process 1; no answer may come."""
    arguments = {"name": "python3", "args": ["-c", code]}
    vm.gate.rpush(
        "core:default", json.dumps({"id": "trace", "command": "core.system", "arguments": arguments})
    )


def test_screen_is_painted_on_the_virtual_terminal(vm: NodeVm) -> None:
    deadline = time.monotonic() + 60
    words = ("uptime:", "gateway:", "10.0.2.2 on eth0")
    while not (shown := shell(vm, "fold -w 80 /dev/vcs2")).startswith("g8node ") or not all(
        word in shown for word in words
    ):  # it is painted anew whenever something changes
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    assert shell(vm, "cat /sys/class/tty/tty0/active") == "tty2\n"
    assert "status: " not in vm.vm.console()


def test_memory_hog_dies_and_redis_and_core0_do_not(vm: NodeVm) -> None:
    before = pids(vm)
    assert before.endswith("-900\n")
    done = vm.job("core.system", {"name": "python3", "args": ["-c", HOG]})
    assert (done["state"], done["code"]) == ("ERROR", 999), done
    assert pids(vm) == before
    assert "PONG" in vm.job("core.ping", {})["data"]
    assert "Out of memory: Killed process" in shell(vm, "dmesg")


def test_memory_hog_in_a_container_dies_first(vm: NodeVm, busybox: str) -> None:
    before = pids(vm)
    arguments = {
        "root": busybox,
        "command": ["/bin/sh", "-c", "cat /proc/self/oom_score_adj; tail /dev/zero"],
    }
    container = json.loads(vm.job("corex.create", arguments)["data"])
    done = vm.result(f"core-{container}")
    assert done["state"] == "ERROR", done
    assert done["streams"][0] == "200\n"
    assert pids(vm) == before
    assert "PONG" in vm.job("core.ping", {})["data"]


def test_machine_that_hangs_is_restarted_by_its_watchdog(vm: NodeVm) -> None:
    deadline = time.monotonic() + 60
    while not (state := vm.direct("core.state")["watchdog"])["device"]:
        assert time.monotonic() < deadline, vm.vm.console()
        time.sleep(0.2)
    assert (state["device"], state["timeout_s"]) == ("i6300ESB timer", TIMEOUT_S)
    assert "restarts the machine when this loop hangs" in vm.vm.console()
    # It is fed: the machine outlives twice the time.
    while time.monotonic() - vm.vm.started <= 2 * TIMEOUT_S:
        assert "PONG" in vm.direct("core.ping")
        time.sleep(0.5)
    trace(vm, FREEZE)
    vm.vm.wait_end(END_S)
    console = vm.vm.console()
    assert "the event loop hangs" in console
    assert f"Timeout (0:00:{TIMEOUT_S // 2})!" in console  # faulthandler's own
    assert "shutting down" not in console


def test_fault_of_process_1_shows_where_it_was_and_is_told_after_the_reboot(tmp_path: Path) -> None:
    """The record of the crash is in memory that the reboot leaves alone."""
    memory = ["memmap=1M$0x30000000", "ramoops.mem_address=0x30000000", "ramoops.mem_size=0x100000"]
    append = [*memory, "ramoops.record_size=0x20000"]
    with node(tmp_path, append=append, options=["-action", "reboot=reset"]) as booted:
        trace(booted, FAULT)
        booted.vm.wait_for("g8node: an earlier boot crashed: ", BOOT_S)
        console = booted.vm.console()
        assert "Fatal Python error: Segmentation fault" in console
        assert "Attempted to kill init" in console
        deadline = time.monotonic() + BOOT_S
        while booted.vm.console().count("g8node ready") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        booted.gate.connection_pool.disconnect()
        assert "Attempted to kill init" in shell(booted, "cat /var/log/crash/dmesg*")
