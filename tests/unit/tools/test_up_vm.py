"""The ports and the console of the machines that `make up` and the tests boot; no machine is booted."""

import socket
from pathlib import Path

import pytest

from g8tools.up.vm import Machine, Vm, VmError, free_port


def test_ports_are_given_once_and_none_of_them_to_an_outgoing_connection() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert max(ports) < lowest


def test_preferred_port_is_given_while_nobody_listens_there() -> None:
    port = free_port()
    assert free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(port) != port


class Ended(Vm):
    """QEMU has ended; its console is read before its last words and after them."""

    running = False

    def __init__(self, folder: Path, last: str) -> None:
        super().__init__(folder, Machine(folder, folder))
        (folder / "qemu.log").touch()
        self._shown = ["", last, last]

    def console(self) -> str:
        return self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]


def test_last_words_of_a_machine_are_heard(tmp_path: Path) -> None:
    Ended(tmp_path, "good bye").wait_for("good bye", 60)


def test_machine_that_ended_without_the_word_is_told(tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"QEMU ended before 'hello' appeared:\ngood bye"):
        Ended(tmp_path, "good bye").wait_for("hello", 60)
