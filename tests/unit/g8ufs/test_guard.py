"""Whatever a handler raises is an errno."""

import errno

import pyfuse3
import pytest

from g8node.errors import Exhausted, InvalidArgument, NodeError, NotFound, PermissionDenied, Unavailable
from g8node.g8ufs.guard import answers


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ZeroDivisionError("bug"), errno.EIO),
        (KeyError("bug"), errno.EIO),
        (NodeError("internal"), errno.EIO),
        (Unavailable("store"), errno.EIO),
        (TimeoutError(), errno.EIO),
        (NotFound("x"), errno.ENOENT),
        (InvalidArgument("x"), errno.EINVAL),
        (PermissionDenied("x"), errno.EACCES),
        (Exhausted("x"), errno.ENOSPC),
        (OSError(errno.EROFS, "x"), errno.EROFS),
        (pyfuse3.FUSEError(errno.ENOSYS), errno.ENOSYS),
    ],
)
async def test_answers_turns_any_exception_into_an_errno(error: Exception, expected: int) -> None:
    @answers
    async def handler() -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as raised:
        await handler()
    assert raised.value.errno == expected


async def test_answers_passes_results_on() -> None:
    @answers
    async def handler(number: int, *, other: int) -> int:
        return number + other

    assert await handler(1, other=2) == 3
