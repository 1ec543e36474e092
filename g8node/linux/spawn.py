"""Starts processes in threads that never need the interpreter.

`subprocess.Popen` and `os.posix_spawn` keep the GIL until the child's exec is done, a millisecond in which
nothing else of this process runs; and a Python thread that gives it back gets it again, each time, only when
the loop lets go of it. So starting is done in C (`_spawn.c`), a request in and an answer out. A child shares
our memory until its exec, as with vfork(2), but no signal handler of ours runs in it: signals are blocked
until their handlers are reset.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from g8node.linux import _spawn

NULL: Final = -3
"""For a standard descriptor: /dev/null, as subprocess.DEVNULL."""

SLOW: Final = errno.EXDEV
"""The answer to a look-up that found what must not be started like this (`launch.py` says why)."""

reap = _spawn.reap
"""Collect a child that has ended (pid, or -1: any): its pid and exit code, -N for signal N. Never waits."""

watch = _spawn.watch
"""Take SIGCHLD, or give it back: an eventfd, always the same, that is readable after one."""


class Spawner:
    """A queue of requests and the answers to them. `fd` is readable while there are answers."""

    def __init__(self) -> None:
        self._outbox, self.fd = _spawn.make_outbox()

    def submit(
        self,
        token: int,
        argv: Sequence[str],
        env: bytes,
        stdio: tuple[int, int, int],
        *,
        search: str | None = None,
        program: str | None = None,
        pass_fds: Sequence[int] = (),
        keep_on_failure: bool = False,
    ) -> None:
        """Start argv[0] in a session of its own with working directory `/`. Never waits.

        argv[0] is a path, or with `search` a name that is looked up in these folders (as PATH has them); with
        `program`, that path is executed and argv[0] is only its name.
        `env` is what `packed_env` gives. `stdio` are three descriptors or NULL; closed as soon as the
        child has them, and when it cannot be started unless `keep_on_failure`. Of the other descriptors the
        child gets `pass_fds` under their numbers, and nothing else. ValueError for a NUL.
        """
        _spawn.submit(
            self._outbox, token, _packed(argv), env, search, program, stdio, tuple(pass_fds), keep_on_failure
        )

    def answers(self) -> list[tuple[int, int, int]]:
        """(token, pid, 0) or (token, 0, errno) of what was started or not since the last call."""
        return _spawn.answers(self._outbox)


def packed_env(env: Mapping[str, str]) -> bytes:
    """An environment as `Spawner.submit` takes it; ValueError for a NUL."""
    return _packed([f"{name}={value}" for name, value in env.items()])


def _packed(words: Iterable[str]) -> bytes:
    encoded = [os.fsencode(word) for word in words]
    packed = b"".join([word + b"\0" for word in encoded])
    if packed.count(b"\0") != len(encoded):
        raise ValueError("embedded null byte")
    return packed
