"""`@answers`: the border between the node's exceptions and FUSE replies (async).

pyfuse3 knows one exception. Any other, from any handler, leaves its caller and every later lookup hanging
while the session stays up (style 2, hazard b).
"""

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3

from g8node.errors import NodeError
from g8node.runtime import logs

log = logs.get("g8ufs")

P = ParamSpec("P")
T = TypeVar("T")

_ERRNO: Final = {
    "invalid_argument": errno.EINVAL,
    "permission_denied": errno.EACCES,
    "not_found": errno.ENOENT,
    "exhausted": errno.ENOSPC,
}


def errno_of(error: Exception) -> int:
    """What the reader sees: EIO unless the error has a plain counterpart."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return _ERRNO.get(error.code, errno.EIO) if isinstance(error, NodeError) else errno.EIO


def answers(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Every handler wears this: whatever it raises becomes an errno, so the mount lives."""

    @functools.wraps(handler)
    async def answered(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            if not isinstance(error, NodeError | OSError):
                log.exception("bug in a FUSE handler", handler=handler.__qualname__)
            raise pyfuse3.FUSEError(errno_of(error)) from error

    return answered
