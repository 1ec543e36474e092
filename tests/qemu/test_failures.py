"""What a node does when it cannot start: it says so and restarts, and never panics."""

from pathlib import Path

import pytest

from g8tools.up.vm import Machine, Vm
from tests.support.vm import BOOT_S, BUILD, END_S, initrd_with

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]


def test_fatal_start_error_is_told_and_reboots(tmp_path: Path) -> None:
    initrd = initrd_with(
        tmp_path, "usr/bin/redis-server", "#!/bin/sh\necho no redis today >&2\nexit 1\n", 0o755
    )
    vm = Vm(tmp_path / "vm", Machine(BUILD / "vmlinuz", initrd, append=("quiet",)))
    vm.start()
    try:
        vm.wait_for("no redis today", BOOT_S)
        vm.wait_for("fatal: ", BOOT_S)
        vm.wait_end(END_S)
        assert "reboot in 1 s" in vm.console()
        assert "Kernel panic" not in vm.console()
    finally:
        vm.quit()


def test_init_that_fails_is_told_and_reboots(tmp_path: Path) -> None:
    initrd = initrd_with(tmp_path, "usr/bin/python3", "no program", 0o644)
    vm = Vm(tmp_path / "vm", Machine(BUILD / "vmlinuz", initrd, append=("quiet",)))
    vm.start()
    try:
        vm.wait_for("/init failed while starting core0", BOOT_S)
        vm.wait_end(END_S)
        assert "Kernel panic" not in vm.console()
    finally:
        vm.quit()
