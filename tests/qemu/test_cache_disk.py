"""The cache disk of a booted node: the blank disk is taken, the signed one is not, and all is there again."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.support.vm import END_S, NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

DISK_MIB = 400


def shell(vm: NodeVm, script: str) -> str:
    done = vm.job("bash", {"script": script})
    assert done["state"] == "SUCCESS", done
    return str(done["streams"][0])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def options(*disks: Path) -> list[str]:
    words = []
    for number, path in enumerate(disks):
        words += ["-drive", f"file={path},if=none,id=d{number},format=raw"]
        words += ["-device", f"virtio-blk-pci,drive=d{number},serial=S{number}"]
    return words


def test_blank_disk_holds_cache_and_logs_over_a_reboot_and_the_signed_one_is_not_touched(
    tmp_path: Path,
) -> None:
    signed, blank = tmp_path / "signed", tmp_path / "blank"
    for path in (signed, blank):
        with path.open("wb") as file:
            file.truncate(DISK_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(signed)], check=True)
    before = digest(signed)
    with node(tmp_path / "first", append=["g8.cache.disk=auto"], options=options(signed, blank)) as vm:
        assert vm.direct("core.state")["cache_disk"] == {"device": "/dev/vdb1", "error": ""}
        assert "/dev/vdb1 holds the cache and the logs" in vm.vm.console()
        mounted = shell(vm, "grep -E ' /var/(cache|log) ' /proc/mounts")
        assert mounted.count("btrfs") == 2
        assert "chunks" in shell(vm, "ls /var/cache/g8node")
        shell(
            vm, "until grep -q hello /var/log/messages; do logger hello; sleep 0.2; done"
        )  # syslogd comes late
        shell(vm, "echo kept >/var/cache/kept; sync /var/cache")
        vm.gate.execute_command("core.poweroff")
        vm.vm.wait_end(END_S)
        assert "cache disk: done" in vm.vm.console()
    assert digest(signed) == before
    append = ["g8.cache.disk=S0"]  # the signed one, by its serial number
    with node(tmp_path / "second", append=append, options=options(signed, blank)) as vm:
        state = vm.direct("core.state")["cache_disk"]
        assert state["device"] == ""
        assert "/dev/vda holds data (ext4)" in state["error"]
        assert "phase cache disk" in vm.vm.console()
        assert "holds data" in vm.vm.console()
        assert "PONG" in vm.direct("core.ping")
        assert "kept" not in shell(vm, "ls /var/cache")
        shell(vm, "mkdir -p /mnt/old && mount -t btrfs /dev/vdb1 /mnt/old")
        assert shell(vm, "cat /mnt/old/cache/kept; ls /mnt/old/logs") == "kept\n1\n"
        assert "g8node ready" in shell(vm, "cat /mnt/old/logs/1/core.log")
        assert "hello" in shell(vm, "cat /mnt/old/logs/1/messages")
    assert digest(signed) == before
