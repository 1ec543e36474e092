"""The status screen on a real terminal (a pty): painted, resized, unplugged."""

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace

import pytest

from g8node import config
from g8node.boot import screen as boot_screen
from g8node.boot.screen import Screen, faces
from g8node.linux.terminal import Terminal
from g8node.runtime.process import Reaper
from tests.support.redis import eventually, make_node


@pytest.mark.parametrize(
    ("choice", "consoles", "expected"),
    [
        ("auto", ["tty0"], (["/dev/tty2"], False)),
        ("auto", ["ttyS0"], ([], True)),
        ("auto", ["tty0", "ttyS0"], (["/dev/tty2"], True)),
        ("auto", [], ([], False)),
        ("off", ["tty0", "ttyS0"], ([], False)),
        ("serial", ["tty0"], ([], True)),
        ("tty3", ["ttyS0"], (["/dev/tty3"], False)),
    ],
)
def test_console_is_chosen(choice: str, consoles: list[str], expected: object) -> None:
    assert faces(choice, consoles) == expected


class Master:
    """The other end of the terminal, read without waiting."""

    def __init__(self) -> None:
        self.fd, slave = pty.openpty()
        self.device = os.ttyname(slave)
        self._ends: tuple[int, ...] = (slave, self.fd)
        os.set_blocking(self.fd, False)
        self.resize(100, 30)
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.seen += os.read(self.fd, 65536).decode()
        return self.seen

    def unplug(self) -> None:
        """Once only: the numbers may be others' after that."""
        ends, self._ends = self._ends, ()
        for fd in ends:
            os.close(fd)


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master()
    yield made
    made.unplug()


def screen_on(device: str, said: list[str], **services: object) -> Screen:
    settings = config.Config(screen=config.Screen(console=device, probe=""))
    node = make_node(Reaper(orphans=False), settings)
    stage = "phase x"
    return Screen(
        node, say=said.append, stage=lambda: stage, services=lambda: services, words=[("debug", "")]
    )


async def test_terminal_is_painted_again_after_a_resize_and_survives_the_unplugging(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_screen, "_PERIOD_S", 0.02)
    monkeypatch.setattr(boot_screen, "_REOPEN_S", 0.02)
    task = asyncio.create_task(screen_on(master.device, []).run())
    await eventually(lambda: "parameters: " in master.read() and "debug" in master.seen)
    assert master.seen.count("\x1b[2J") == 1
    master.resize(30, 4)
    await eventually(lambda: master.read().count("\x1b[2J") == 2)
    await eventually(lambda: "more" in master.read())
    master.unplug()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_terminal_that_takes_nothing_does_not_hold_up_the_loop(master: Master) -> None:
    terminal = Terminal(master.device)

    def fill() -> None:
        for _ in range(1000):
            terminal.write("x" * 1000)

    with pytest.raises(BlockingIOError):
        fill()
    terminal.close()


async def test_serial_console_is_told_what_changed() -> None:
    said: list[str] = []
    screen = screen_on("serial", said, ready=1, count=2, failed={"broken": "why\x1b[0m"})
    task = asyncio.create_task(screen.run())
    await eventually(lambda: any("containers" in line for line in said))
    assert "status: services: 1 of 2 ready\n" in said
    assert "status: failed broken: why?[0m\n" in said
    assert "status: boot: phase x\n" in said
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in said)
    facts = await screen.facts()
    assert replace(facts, uptime_s=0).containers == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_probing_finds_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_screen, "_TRY_S", 60.0)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await boot_screen._answers(f"127.0.0.1:{port}")
    server.close()
    await server.wait_closed()
    assert not await boot_screen._answers(f"127.0.0.1:{port}")
    assert not await boot_screen._answers("nonsense")


async def test_screen_that_is_off_ends_at_once() -> None:
    await asyncio.wait_for(screen_on("off", []).run(), 60)
