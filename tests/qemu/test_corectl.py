"""corectl in the image, and the names reboot and poweroff, which are links to it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vm import NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    with node(tmp_path_factory.mktemp("vm")) as booted:
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
    done = shell(
        vm, "corectl --async --id slow execute sleep 600; corectl job kill slow --signal 9; corectl info os"
    )
    assert done["state"] == "SUCCESS", done
    assert "kernelVersion:" in done["streams"][0]
    assert vm.result("slow")["state"] == "ERROR"


def test_poweroff_is_corectl_and_ends_the_machine(vm: NodeVm) -> None:
    done = shell(vm, "readlink -f /sbin/reboot; readlink -f /sbin/poweroff")
    assert done["streams"][0] == "/usr/bin/corectl\n" * 2, done
    # By its path: busybox's shell has a poweroff of its own, which tells process 1 by a signal.
    vm.gate.rpush("core:default", '{"id":"end","command":"bash","arguments":{"script":"/sbin/poweroff"}}')
    vm.vm.wait_end(60)
    assert "shutting down" in vm.vm.console()
    assert "Traceback" not in vm.vm.console()
