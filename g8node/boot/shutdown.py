"""The end of the node (async): every step has a time limit, because a machine must go down."""

import asyncio
from collections.abc import Awaitable

from g8node.runtime import logs

log = logs.get("shutdown")


async def step(name: str, work: Awaitable[object], limit_s: float) -> None:
    """Do one thing of the shutdown; what fails or takes too long is said and left behind."""
    try:
        await asyncio.wait_for(work, limit_s)
    except TimeoutError:
        log.warning(f"{name}: not done within {limit_s:g} s, going on")
    except Exception as error:  # noqa: BLE001 - a failing step must not keep the machine up
        log.warning(f"{name}: failed, going on", reason=f"{type(error).__name__}: {error}")
    else:
        log.info(f"{name}: done")
