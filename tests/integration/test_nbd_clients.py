"""The NBD server with the clients that people use: libnbd's tools and Python, qemu's tools, fio.

Debian 12's, and Debian 13's from a root of their own, which negotiate extended headers.
"""

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from g8node.wire import nbd
from tests.support.vdisks import Served, run, served

SIZE = 64 << 20
TOP = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.root  # clients13.sh


@pytest.fixture(scope="module", params=["plain", "dedup"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    sizes = {"vd": SIZE, "ubuntu:latest": 64 << 40}
    with served(tmp_path_factory.mktemp("nbd"), sizes, storage=request.param) as server:
        yield server


@pytest.fixture
def server(shared: Served) -> Served:
    """With an empty vdisk."""
    client = shared.client()
    assert client.call(nbd.CMD_TRIM, 0, SIZE).error == 0
    client.close()
    return shared


class Tools:
    """The clients of one Debian."""

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def is_new(self) -> bool:
        return bool(self.root)

    def __call__(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        if not self.root:
            return run(program, *arguments)
        libraries = f"{self.root}/usr/lib/x86_64-linux-gnu"
        loader = f"{self.root}/lib64/ld-linux-x86-64.so.2", "--library-path", libraries
        return run(*loader, f"{self.root}/usr/bin/{program}", *arguments)


@pytest.fixture(scope="module", params=["debian 12", "debian 13"])
def tools(request: pytest.FixtureRequest) -> Tools:
    if request.param == "debian 12":
        return Tools("")
    made = subprocess.run(
        [TOP / "initramfs-build/clients13.sh"], stdout=subprocess.PIPE, text=True, check=True
    )
    return Tools(made.stdout.strip())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Random data, a hole, random data up to the end."""
    path = tmp_path / "image"
    with open("/dev/urandom", "rb") as source, path.open("wb") as file:
        file.write(source.read(5 << 20))
        file.seek(SIZE - (1 << 20))
        file.write(source.read(1 << 20))
    return path


def test_nbdinfo_sees_a_modern_export(server: Served, tools: Tools) -> None:
    shown = json.loads(tools("nbdinfo", "--json", server.uri()).stdout)
    (export,) = shown["exports"]
    assert shown["structured"]
    assert shown.get("extended", False) is tools.is_new
    assert export["export-size"] == SIZE
    assert export["contexts"] == ["base:allocation"]
    able = ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero")
    assert [name for name in able if not export[f"can_{name}"]] == []
    assert not export["is_read_only"]


def test_nbdinfo_lists_the_exports(server: Served, tools: Tools) -> None:
    shown = json.loads(tools("nbdinfo", "--list", "--json", server.uri("")).stdout)
    sizes = {export["export-name"]: export["export-size"] for export in shown["exports"]}
    assert sizes == {"vd": SIZE, "ubuntu:latest": 64 << 40}


def test_nbdcopy_there_and_back_over_several_connections(
    server: Served, tools: Tools, image: Path, tmp_path: Path
) -> None:
    tools("nbdcopy", "--connections=4", "--flush", str(image), server.uri())
    tools("nbdcopy", "--connections=4", server.uri(), str(tmp_path / "back"))
    run("cmp", str(image), str(tmp_path / "back"))


def test_holes_stay_holes(server: Served, tools: Tools, image: Path) -> None:
    tools("nbdcopy", "--destination-is-zero", str(image), server.uri())
    extents = json.loads(tools("nbdinfo", "--map", "--json", server.uri()).stdout)
    assert [(one["offset"], one["length"], one["type"]) for one in extents] == [
        (0, 5 << 20, 0),
        (5 << 20, SIZE - (6 << 20), 3),
        (SIZE - (1 << 20), 1 << 20, 0),
    ]


def test_end_of_a_vdisk_of_64_tib_is_written_and_read(server: Served, tools: Tools) -> None:
    shown = tools(
        *("qemu-io", "-f", "raw", server.uri("ubuntu:latest")),
        *("-c", f"write -P 9 {(64 << 40) - 4096} 4k"),
        *("-c", f"write -P 8 {(1 << 40) - 4096} 8k"),
        *("-c", "flush"),
        *("-c", f"read -P 9 {(64 << 40) - 4096} 4k"),
        *("-c", f"read -P 8 {(1 << 40) - 4096} 8k"),
        *("-c", f"read -P 0 {1 << 45} 64k"),
    ).stdout
    assert "Pattern verification failed" not in shown


def test_qemu_img_converts_and_compares(server: Served, tools: Tools, image: Path, tmp_path: Path) -> None:
    tools("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), server.uri())
    tools("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), server.uri())
    tools("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri(), str(tmp_path / "copy.qcow2"))
    tools("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(image), str(tmp_path / "copy.qcow2"))


def test_qemu_io_writes_zeroes_and_discards(server: Served, tools: Tools) -> None:
    shown = tools(
        *("qemu-io", "-f", "raw", "-d", "unmap", server.uri()),
        *("-c", "write -P 5 0 4M"),
        *("-c", "write -P 7 1k 3k"),
        *("-c", "write -z 64k 64k"),
        *("-c", "write -z -u 256k 256k"),
        *("-c", "discard 1M 1M"),
        *("-c", "write -f -P 6 3M 4k"),
        *("-c", "flush"),
        *("-c", "read -P 5 0 1k"),
        *("-c", "read -P 7 1k 3k"),
        *("-c", "read -P 0 64k 64k"),
        *("-c", "read -P 0 256k 256k"),
        *("-c", "read -P 0 1M 1M"),
        *("-c", "read -P 6 3M 4k"),
        *("-c", "read -P 5 2M 1M"),
    ).stdout
    assert "failed" not in shown
    extents = json.loads(tools("nbdinfo", "--map", "--json", server.uri()).stdout)
    state = {one["offset"]: (one["length"], one["type"]) for one in extents}
    assert state[256 << 10] == (256 << 10, 3)
    assert state[1 << 20] == (1 << 20, 3)


def verify_mixes(server: Served, folder: Path, least_s: float) -> None:
    """Random mixes, each of its own seed, and all that they wrote verified.

    One mix ends when it has been everywhere: where it begins anew fio takes its own older writes of other
    lengths for wrong ones (it says so of nbdkit's memory, too).
    """
    deadline = time.monotonic() + least_s
    for seed in itertools.count(1):
        run(
            *("fio", "--name=mix", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randrw", "--size=32M"),
            *("--bsrange=512-64k", "--bs_unaligned", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1"),
            *("--verify_backlog=64", "--fsync=32", f"--aux-path={folder}", f"--randseed={seed}"),
        )
        if time.monotonic() > deadline:
            return


def test_fio_verifies_random_mixes(server: Served, tmp_path: Path) -> None:
    verify_mixes(server, tmp_path, 30)  # a minute on both kinds of vdisk


@pytest.mark.soak
def test_fio_verifies_random_mixes_for_an_hour(server: Served, tmp_path: Path) -> None:
    verify_mixes(server, tmp_path, 3600)


LIBNBD = r"""
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
new_headers = hasattr(h, "get_extended_headers_negotiated") and h.get_extended_headers_negotiated()
assert h.get_size() == 64 << 20
h.pwrite(b"x" * 3000, 1000, nbd.CMD_FLAG_FUA)
assert bytes(h.pread(5000, 0)) == bytes(1000) + b"x" * 3000 + bytes(1000)
chunks = []
whole = h.pread_structured(5000, 0, lambda data, *rest: chunks.append(bytes(data)), nbd.CMD_FLAG_DF)
assert chunks == [bytes(1000) + b"x" * 3000 + bytes(1000)]
h.zero(500, 1000, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(1 << 20, 2 << 20)
h.cache(1 << 20, 0)
h.flush()
assert bytes(h.pread(1000, 1000)) == bytes(500) + b"x" * 500
found = []
h.block_status(64 << 20, 0, lambda context, offset, entries, error: found.extend(entries))
assert sum(found[::2]) == 64 << 20, found
h.set_strict_mode(0)
def refused(call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        return error.errno
    raise AssertionError("not refused")
assert refused(h.pread, 1, 64 << 20) == "EINVAL"
assert refused(h.pwrite, b"x", 64 << 20) == "ENOSPC"
assert refused(h.trim, 4096, (1 << 64) - 4096) == "EINVAL"
assert refused(h.zero, 4096, (1 << 63) - 4096) == "ENOSPC"
assert bytes(h.pread(4, 1600)) == b"xxxx"
cookies = [h.aio_pwrite(bytes([n]) * 65536, n * 65536) for n in range(64)]
while cookies:
    h.poll(-1)
    cookies = [one for one in cookies if not h.aio_command_completed(one)]
assert all(bytes(h.pread(65536, n * 65536)) == bytes([n]) * 65536 for n in range(64))
big = bytes(range(256)) * (32 << 12)
h.pwrite(big, 0)
assert h.pread(32 << 20, 0) == big
h.shutdown()
"""


def test_libnbd_python_does_everything(server: Served, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    if tools.is_new:
        monkeypatch.setenv("PYTHONHOME", f"{tools.root}/usr")
        tools("python3.13", "-c", LIBNBD + "assert new_headers", server.uri())
    else:
        tools("/usr/bin/python3", "-c", LIBNBD, server.uri())
