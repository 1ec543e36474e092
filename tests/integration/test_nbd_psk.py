"""NBD with pre-shared keys: a server on the image's Python, since 3.11 cannot, and clients from here."""

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from g8tools.up.vm import free_port
from tests.support.vdisks import DEADLINE_S, G8, run

pytestmark = pytest.mark.root  # python313.sh

TOP = Path(__file__).resolve().parents[2]
SERVE = """
mount --rbind "$2" "$1/g8node"
mount --bind "$3" "$1/mnt"
mount --rbind /dev "$1/dev"
exec chroot "$1" /usr/bin/env -i PATH=/usr/bin HOME=/mnt LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
    python3 -m g8tools.g8 vdisk serve --data /mnt/vdisks --listen "127.0.0.1:$4" \\
    --tls-psk /mnt/keys.psk --tls-only
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vdisk, the server's keys, and clients' folders: alice's key, and another one of hers."""
    made = tmp_path_factory.mktemp("psk")
    run(*G8, "vdisk", "create", "vd", "1M", "--data", str(made / "vdisks"))
    (made / "keys.psk").write_text(f"alice:{secrets.token_hex(32)}\n")
    for name, text in (
        ("right", (made / "keys.psk").read_text()),
        ("wrong", f"alice:{secrets.token_hex(32)}\n"),
    ):
        (made / name).mkdir()
        (made / name / "keys.psk").write_text(text)
    return made


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    made = subprocess.run(
        [TOP / "initramfs-build/python313.sh"], stdout=subprocess.PIPE, text=True, check=True
    )
    number = free_port()
    words = [made.stdout.strip(), str(TOP), str(folder), str(number)]
    argv = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-euc", SERVE, "sh", *words]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + DEADLINE_S
        while not answers(number):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.02)
        yield number
        server.terminate()
        assert server.wait(DEADLINE_S) == 0, (folder / "log").read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def qemu_io(folder: Path, port: int, keys: str, *commands: str) -> "subprocess.CompletedProcess[str]":
    argv = ["qemu-io", "--object", f"tls-creds-psk,id=t,endpoint=client,dir={folder / keys},username=alice"]
    argv += [word for one in commands for word in ("-c", one)]
    image = f"driver=nbd,host=127.0.0.1,port={port},export=vd,tls-creds=t"
    return run(*argv, "--image-opts", image, check=False)


def nbdinfo(folder: Path, port: int, keys: str) -> "subprocess.CompletedProcess[str]":
    uri = f"nbds://alice@127.0.0.1:{port}/vd?tls-psk-file={folder / keys / 'keys.psk'}"
    return run("nbdinfo", uri, check=False)


def test_clients_with_the_key_are_let_in(folder: Path, port: int) -> None:
    shown = nbdinfo(folder, port, "right")
    assert shown.returncode == 0, shown.stderr
    assert "with TLS" in shown.stdout
    done = qemu_io(folder, port, "right", "write -P 7 0 64k", "flush", "read -P 7 0 64k")
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout


def test_clients_without_the_key_are_not(folder: Path, port: int) -> None:
    assert nbdinfo(folder, port, "wrong").returncode != 0
    assert qemu_io(folder, port, "wrong", "read 0 512").returncode != 0
    plain = run("nbdinfo", f"nbd://127.0.0.1:{port}/vd", check=False)
    assert plain.returncode != 0
    assert "without TLS" in plain.stdout
