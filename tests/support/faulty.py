"""An agent into whose subsystems a test can throw: `python -m tests.support.faulty`, as `python -m g8node`.

SIGUSR1 makes it read "<subsystem> <error>" from the file named by $G8NODE_FAULT. The subsystem's own code is
cancelled where it waits, as an error there would leave it, and then the error comes out of it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from g8node import __main__ as program
from g8node import main
from g8node.runtime.supervise import Supervisor

ERRORS: dict[str, Callable[[str], BaseException]] = {
    "ValueError": ValueError,
    "SystemExit": SystemExit,
    "CancelledError": asyncio.CancelledError,
    "ExceptionGroup": lambda text: BaseExceptionGroup(text, [KeyboardInterrupt(text), OSError(text)]),
}


class FaultySupervisor(Supervisor):
    """The real one; only what it runs can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self._faults: dict[str, asyncio.Future[BaseException]] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]], **options: Any) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._throw)
        super().start(name, lambda: self._until_fault(name, run), **options)

    async def _until_fault(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        fault = self._faults[name] = asyncio.get_running_loop().create_future()
        work = asyncio.ensure_future(run())
        try:
            await asyncio.wait([work, fault], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
        if fault.done():
            raise fault.result()
        work.result()

    def _throw(self) -> None:
        name, error = Path(os.environ["G8NODE_FAULT"]).read_text().split()
        self._faults[name].set_result(ERRORS[error](f"injected into {name}"))


if __name__ == "__main__":
    main.Supervisor = FaultySupervisor  # type: ignore[misc]
    program.run()
