"""The thread pools: what a call that failed leaves behind."""

import asyncio
import contextlib
import gc
import weakref

from g8node.runtime import blocking


async def test_error_of_a_call_holds_nothing_after_it_was_handled() -> None:
    """No cycle through frames: what the call held open is closed without a garbage collection."""

    class Thing:
        pass

    def fail(thing: Thing) -> None:
        raise ValueError("refused")

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await blocking.run("disk", fail, thing)
        del thing
        async with asyncio.timeout(60):
            while gone() is not None:  # noqa: ASYNC110 - the pool's thread lets go a moment later
                await asyncio.sleep(0.005)
    finally:
        gc.enable()
