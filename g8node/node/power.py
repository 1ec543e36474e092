"""The wish to power off or reboot, as a value that main waits for (async)."""

import asyncio
from typing import Literal

Mode = Literal["poweroff", "reboot"]


class Power:
    """Commands ask, main answers: the first wish wins, later ones change nothing."""

    def __init__(self) -> None:
        self._wish: asyncio.Future[Mode] | None = None

    def _future(self) -> "asyncio.Future[Mode]":
        if self._wish is None:
            self._wish = asyncio.get_running_loop().create_future()
        return self._wish

    def request(self, mode: Mode) -> None:
        """Ask for the shutdown; returns at once."""
        if not self._future().done():
            self._future().set_result(mode)

    async def requested(self) -> Mode:
        """Wait until somebody asks."""
        return await asyncio.shield(self._future())
