"""The whole failure vocabulary of the node (pure): gRPC's canonical words, each with its result code.

Anything that is no NodeError is a bug: it is reported as `internal` (500) and logged with its traceback.
"""

from typing import ClassVar


class NodeError(Exception):
    """A failure whose message is meant for the caller. `status` is the job result's code (spec 2.4)."""

    code: ClassVar[str] = "internal"
    status: int = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidArgument(NodeError):
    """The request itself is wrong; the same request will never succeed."""

    code = "invalid_argument"
    status = 400


class PermissionDenied(NodeError):
    """The caller is known and may not do this."""

    code = "permission_denied"
    status = 403


class NotFound(NodeError):
    """The named thing does not exist. Final: asking again does not help."""

    code = "not_found"
    status = 404


class AlreadyExists(NodeError):
    """A thing of that name exists."""

    code = "already_exists"
    status = 409


class Conflict(NodeError):
    """The resource exists but is in the wrong state for this request."""

    code = "conflict"
    status = 409


class FailedPrecondition(NodeError):
    """The thing holds data or protection that the request does not say may be lost."""

    code = "failed_precondition"
    status = 412


class ProgramFailed(NodeError):
    """A program of the system ended with an error; its exit code is kept as 1000 + N (core0-resources 0)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.status = 1000 + exit_code


class Exhausted(NodeError):
    """A configured limit is reached; freeing something helps."""

    code = "exhausted"
    status = 503


class Unavailable(NodeError):
    """Something needed does not answer now; the same request may succeed later."""

    code = "unavailable"
    status = 503
    retryable = True


class DeadlineExceeded(NodeError):
    """The operation did not end within its time limit."""

    code = "deadline_exceeded"
    status = 504
    retryable = True
