"""The status screen of a booted node (async): on a virtual terminal, or as lines on the serial console.

`screen.console` chooses: `auto` paints tty2 where the kernel has a screen (tty1 keeps its messages), and
tells the serial line what changes where the console is one; `serial` or a terminal's name do just that.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from g8node.linux import netinfo
from g8node.linux.terminal import Terminal, active_consoles
from g8node.node.node import Node
from g8node.runtime import blocking, logs
from g8node.wire import screen

_PERIOD_S: Final = 3.0
_REOPEN_S: Final = 10.0
_TRY_S: Final = 3.0
_AGAIN_S: Final = 5.0
_WELL_S: Final = 600.0
_PARAMETERS: Final = ("debug", "quiet", "development", "support", "organization", "zerotier", "noautonic")


class Screen:
    """Keep `run` going. `say` writes a line to the console, `stage` tells how far the boot is."""

    def __init__(
        self,
        node: Node,
        *,
        say: Callable[[str], object],
        stage: Callable[[], str],
        services: Callable[[], dict[str, Any]],
        words: list[tuple[str, str]],
    ) -> None:
        self._node = node
        self._say = say
        self._stage = stage
        self._services = services
        self._parameters = " ".join(
            f"{key}={value}" if value else key for key, value in words if key in _PARAMETERS
        )
        self._probed = [word.strip() for word in node.config.screen.probe.split(",") if word.strip()]
        self._internet = "not tested" if not self._probed else "testing"
        self._feed = screen.Feed()

    async def run(self) -> None:
        """Until it is cancelled; returns at once when there is nothing to show it on."""
        devices, is_serial = faces(self._node.config.screen.console, active_consoles())
        if not devices and not is_serial:
            return
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(self._keep_painted(device))
            if is_serial:
                group.create_task(self._keep_told())
            if self._probed:
                group.create_task(self._keep_probing())

    async def _keep_painted(self, device: str) -> None:
        """A terminal that is unplugged or stops taking text is opened again after a while."""
        while True:
            with contextlib.suppress(OSError):
                terminal = await blocking.run("disk", Terminal, device)
                try:
                    await self._painted(terminal)
                finally:
                    terminal.close()
            await asyncio.sleep(_REOPEN_S)

    async def _painted(self, terminal: Terminal) -> None:
        terminal.show()
        size, shown = None, None
        while True:
            now = terminal.size()
            if now != size:
                size, shown = now, None
            lines = screen.frame(await self.facts(), *size)
            await blocking.run("disk", terminal.write, screen.paint(shown, lines))
            shown = lines
            await asyncio.sleep(_PERIOD_S)

    async def _keep_told(self) -> None:
        while True:
            rows = screen.rows(await self.facts())
            for line in self._feed.due(rows, time.monotonic()):
                self._say(f"status: {line}\n")
            await asyncio.sleep(_PERIOD_S)

    async def facts(self) -> screen.Facts:
        """Everything as it is now."""
        nics = await blocking.run("disk", netinfo.nics, main=True)
        gateway = await blocking.run("disk", netinfo.gateway)
        services, trouble = self._services(), logs.trouble()
        version = self._node.inventory.version()
        return screen.Facts(
            version=f"{version['branch']} ({version['revision']})",
            hostname=socket.gethostname(),
            uptime_s=time.monotonic(),
            stage=self._stage(),
            ready=services.get("ready", 0),
            services=services.get("count", 0),
            failed=tuple(services.get("failed", {}).items()),
            links=tuple(_link(nic) for nic in nics if nic["name"] != "lo"),
            gateway=gateway,
            internet=self._internet,
            gate=_gate(self._node),
            containers=len(self._node.containers.all()) if self._node.is_complete else 0,
            parameters=self._parameters,
            error=trouble.text if trouble is not None else "",
        )

    async def _keep_probing(self) -> None:
        """Every 5 s until something answers, then every 10 minutes; who answered is asked first."""
        while True:
            for number, address in enumerate(self._probed):
                if await _answers(address):
                    self._internet = f"reached ({address})"
                    self._probed.insert(0, self._probed.pop(number))
                    await asyncio.sleep(_WELL_S)
                    break
            else:
                self._internet = "not reached"
                await asyncio.sleep(_AGAIN_S)


def faces(choice: str, consoles: list[str]) -> tuple[list[str], bool]:
    """The terminals to paint, and whether the console's line is told."""
    if choice == "auto":
        last = consoles[-1] if consoles else ""
        return ["/dev/tty2"] if "tty0" in consoles else [], last not in ("", "tty0")
    if choice in ("off", "serial"):
        return [], choice == "serial"
    return [choice if choice.startswith("/") else f"/dev/{choice}"], False


def _link(nic: dict[str, Any]) -> screen.Link:
    addresses = tuple(row["addr"] for row in nic["addrs"] if not row["addr"].startswith("fe80:"))
    return screen.Link(nic["name"], nic["hardwareaddr"], "up" in nic["flags"], addresses)


def _gate(node: Node) -> str:
    gate = node.config.gate
    return f"{gate.listen} ({'TLS' if gate.tls else 'no TLS'})" if gate.listen else "closed"


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_TRY_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True
