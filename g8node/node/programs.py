"""The system's programs that owners call, found on the root file system (async)."""

import os
from collections.abc import Sequence
from typing import Final

from g8node.errors import NodeError, ProgramFailed, Unavailable
from g8node.linux.guard import off_loop
from g8node.runtime import blocking
from g8node.runtime.process import Completed, Reaper

FOLDERS: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_ENVIRON: Final = {"PATH": ":".join(FOLDERS), "LC_ALL": "C.UTF-8"}
_SHOWN_MAX: Final = 4000


@off_loop
def find(name: str) -> str:
    """Raises Unavailable for a program that this node does not have."""
    for folder in FOLDERS:
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise Unavailable(f"{name} is not installed on this node")


async def attempt(reaper: Reaper, name: str, *arguments: str, timeout_s: float = 60.0) -> Completed:
    """Run it to its end, whatever its exit code. Cancelling kills it."""
    path = await blocking.run("disk", find, name)
    return await reaper.run([path, *arguments], env=_ENVIRON, timeout_s=timeout_s)


async def run(
    reaper: Reaper, name: str, *arguments: str, timeout_s: float = 60.0, good: Sequence[int] = (0,)
) -> str:
    """Its standard output as text. ProgramFailed (1000 + exit code) tells what it printed."""
    done = await attempt(reaper, name, *arguments, timeout_s=timeout_s)
    if done.code not in good:
        raise failure(name, done)
    return done.stdout.decode(errors="replace")


def failure(name: str, done: Completed) -> NodeError:
    """The error of a program that failed, in the original's words: `(ERROR): [stdout stderr]`."""
    printed = f"{_text(done.stdout)} {_text(done.stderr)}".strip()[:_SHOWN_MAX]
    if done.code < 0:
        return NodeError(f"{name} was killed by signal {-done.code}: [{printed}]")
    return ProgramFailed(f"{name} (ERROR): [{printed}]", done.code)


def _text(output: bytes) -> str:
    return " ".join(output.decode(errors="replace").split())
