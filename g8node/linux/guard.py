"""The guard of design rule 4.1 (blocking): what may wait refuses to run on a loop thread."""

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def off_loop(fn: Callable[P, T]) -> Callable[P, T]:
    """Refuse to run on a thread that drives an event loop: the path may be one it serves."""

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return fn(*args, **kwargs)
        raise AssertionError(f"{fn.__qualname__} blocks; call it through runtime.blocking.run")

    return guarded
