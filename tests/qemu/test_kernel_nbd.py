"""The kernel's NBD client of a booted node on vdisks that core0 serves there: file systems live on them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import carried, kernel_nbd
from tests.support.vm import NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

PROGRAMS = ("mkfs.ext4", "fsck.ext4", "stress-ng")
STRESSORS = ("dir", "dentry", "fallocate", "fpunch", "hdd", "iomix", "link", "rename", "symlink", "sync-file")
STRESS = " ".join(
    [f"--{one} 1" for one in STRESSORS] + [f"--{one}-bytes 16m" for one in ("fallocate", "hdd", "iomix")]
)
PART, WHOLE = "/usr/lib/python3.13", "/usr"
EXT4 = ("ext4", "plain", 2, "mkfs.ext4 -q", "fsck.ext4 -f -n")
BTRFS = ("btrfs", "dedup", 1, "mkfs.btrfs -q", "btrfs check")
MIB = 1 << 20


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    """A node whose vdisks lie on its cache disk, and with programs that the image does not have."""
    folder = tmp_path_factory.mktemp("vm")
    with (folder / "blank").open("wb") as file:
        file.truncate(2048 * MIB)
    carried.pack(folder / "tools", PROGRAMS)
    options = []
    for name in ("blank", "tools"):
        options += ["-drive", f"file={folder / name},if=none,id={name},format=raw"]
        options += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    append = ["g8.cache.disk=blank", "g8.vdisk.folder=/var/cache/vdisks"]
    with node(folder, options=options, append=append) as booted:
        assert booted.direct("core.state")["cache_disk"]["error"] == ""
        carried.unpack(booted, "/dev/vdb")
        shell(booted, "/usr/sbin/modprobe nbd nbds_max=2")
        yield booted


def shell(vm: NodeVm, script: str) -> str:
    done = vm.job("bash", {"script": f"set -e; PATH={carried.BIN}:$PATH\n{script}"}, wait_s=300)
    assert done["state"] == "SUCCESS", done
    return str(done["streams"][0])


def connect(vm: NodeVm, vdisk: str, device: str, connections: int) -> str:
    """Until the device is disconnected, which ends the job that this returns."""
    source = Path(kernel_nbd.__file__).read_text()
    words = ["-c", source, "/run/nbd.sock", vdisk, device, str(connections)]
    request = {"id": vdisk, "command": "core.system", "arguments": {"name": "python3", "args": words}}
    vm.gate.rpush("core:default", json.dumps(request))
    size = f"/sys/block/{Path(device).name}/size"
    shell(vm, f"for i in $(seq 1200); do [ $(cat {size}) -gt 0 ] && exit 0; sleep 0.1; done; exit 1")
    return vdisk


@pytest.mark.parametrize(
    ("file_system", "storage", "connections", "make", "check", "tree"),
    [
        (*EXT4, PART),
        (*BTRFS, PART),
        pytest.param(*EXT4, WHOLE, marks=pytest.mark.soak),
        pytest.param(*BTRFS, WHOLE, marks=pytest.mark.soak),
    ],
)
def test_file_system_of_the_kernels_client_is_whole_after_stress(
    vm: NodeVm, file_system: str, storage: str, connections: int, make: str, check: str, tree: str
) -> None:
    vdisk, device = f"{file_system}-disk", "/dev/nbd0"
    mount = f"mount -t {file_system}"
    vm.direct("vdisk.create", id=vdisk, size=1024 * MIB, storage=storage)
    job = connect(vm, vdisk, device, connections)
    shell(vm, f"{make} {device} && mkdir -p /mnt/n && {mount} -o discard {device} /mnt/n")
    shell(vm, f"stress-ng --temp-path /mnt/n --timeout 5 --verify {STRESS}")
    shell(
        vm, f"cd {tree} && find . -type f -exec md5sum {{}} + >/tmp/sums && tar -cf - . | tar -C /mnt/n -xf -"
    )
    shell(vm, f"umount /mnt/n && echo 3 >/proc/sys/vm/drop_caches && {check} {device}")
    shell(vm, f"{mount} -o ro {device} /mnt/n && cd /mnt/n && md5sum -c -s /tmp/sums")
    shell(vm, f"umount /mnt/n && nbd-client -d {device}")
    assert vm.result(job)["state"] == "SUCCESS"
    vm.direct("vdisk.delete", id=vdisk)
