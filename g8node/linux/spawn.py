"""posix_spawn(3) without the interpreter's lock (blocking).

`subprocess.Popen` and `os.posix_spawn` keep the GIL until the child's exec is done, a millisecond in which
nothing else of this process runs. Called by way of ctypes, the C library's function gives it back. The child
shares our memory until its exec, but none of our code runs in it: the C library blocks all signals and resets
their handlers there.
"""

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from g8node.linux.guard import off_loop

NULL: Final = -3
"""For a standard descriptor: /dev/null, as subprocess.DEVNULL."""

NULL_DEVICE: Final = b"/dev/null"

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_STRUCT_BYTES: Final = 512  # posix_spawnattr_t has 336, posix_spawn_file_actions_t 80
_SIGSET_BYTES: Final = 128
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_LOW: Final = 3

_libc = ctypes.CDLL(None)
_wait4 = ctypes.PyDLL(
    None, use_errno=True
).wait4  # PyDLL: with the GIL, which costs more to get back than this call
for _name, _arguments in {
    "posix_spawn": [ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_void_p] * 4],
    "posix_spawn_file_actions_adddup2": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    "posix_spawn_file_actions_addopen": [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    ],
    "posix_spawn_file_actions_addchdir_np": [ctypes.c_void_p, ctypes.c_char_p],
    "posix_spawn_file_actions_addclosefrom_np": [ctypes.c_void_p, ctypes.c_int],
    "posix_spawnattr_setflags": [ctypes.c_void_p, ctypes.c_short],
    "posix_spawnattr_setsigdefault": [ctypes.c_void_p, ctypes.c_void_p],
    "posix_spawnattr_setsigmask": [ctypes.c_void_p, ctypes.c_void_p],
}.items():
    getattr(_libc, _name).argtypes = _arguments


@off_loop
def spawn(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    stdio: Sequence[int],
    pass_fds: Sequence[int] = (),
) -> int:
    """Start argv[0] (a path) in a session of its own with working directory `/`; its pid.

    `stdio` are three descriptors or NULL, which stay the caller's. Of the other descriptors the child gets
    `pass_fds` under their numbers, and nothing else. Raises OSError as exec does, ValueError for a NUL.
    """
    path = os.fsencode(argv[0])
    with ExitStack() as undo:
        actions = _structure("posix_spawn_file_actions", undo)
        for target, source in enumerate(stdio):
            if source == NULL:
                flags = os.O_RDONLY if target == 0 else os.O_WRONLY
                _check(_libc.posix_spawn_file_actions_addopen(actions, target, NULL_DEVICE, flags, 0))
            else:
                _dup2(actions, _high(source, target, undo), target)
        for fd in pass_fds:
            _dup2(actions, fd, fd)  # which takes close-on-exec off it
        _check(_libc.posix_spawn_file_actions_addchdir_np(actions, b"/"))
        # All of ours are close-on-exec already; this is for what a library may have left open.
        _check(_libc.posix_spawn_file_actions_addclosefrom_np(actions, max([_LOW - 1, *pass_fds]) + 1))
        attributes = _structure("posix_spawnattr", undo)
        _check(_libc.posix_spawnattr_setsigdefault(attributes, _signals(_IGNORED_BY_PYTHON)))
        _check(_libc.posix_spawnattr_setsigmask(attributes, _signals(())))
        _check(_libc.posix_spawnattr_setflags(attributes, _SETSIGDEF | _SETSIGMASK | _SETSID))
        words = _vector(argv)
        environ = _vector([f"{name}={value}" for name, value in (os.environ if env is None else env).items()])
        pid = ctypes.c_int()
        _check(_libc.posix_spawn(ctypes.byref(pid), path, actions, attributes, words, environ), argv[0])
        return pid.value


def reap(pid: int) -> tuple[int, int] | None:
    """Collect a child that has ended (-1: any): its pid and exit code, -N for signal N. Never waits."""
    status = ctypes.c_int()
    found = _wait4(pid, ctypes.byref(status), os.WNOHANG, None)
    return (found, os.waitstatus_to_exitcode(status.value)) if found > 0 else None


def _structure(name: str, undo: ExitStack) -> "ctypes.Array[ctypes.c_char]":
    made = ctypes.create_string_buffer(_STRUCT_BYTES)
    _check(getattr(_libc, f"{name}_init")(made))
    undo.callback(getattr(_libc, f"{name}_destroy"), made)
    return made


def _dup2(actions: "ctypes.Array[ctypes.c_char]", source: int, target: int) -> None:
    _check(_libc.posix_spawn_file_actions_adddup2(actions, source, target))


def _high(source: int, target: int, undo: ExitStack) -> int:
    """A descriptor that no other of the three takes the place of."""
    if source >= _LOW or source == target:
        return source
    copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _LOW)
    undo.callback(os.close, copy)
    return copy


def _signals(numbers: Sequence[int]) -> "ctypes.Array[ctypes.c_char]":
    """A sigset_t: bit n-1 is signal n."""
    mask = sum(1 << number - 1 for number in numbers)
    return ctypes.create_string_buffer(mask.to_bytes(_SIGSET_BYTES, "little"), _SIGSET_BYTES)


def _vector(words: Sequence[str]) -> "ctypes.Array[ctypes.c_char_p]":
    encoded = [os.fsencode(word) for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _check(code: int, name: str | None = None) -> None:
    if code:
        raise OSError(code, os.strerror(code), name) if name else OSError(code, errno.errorcode.get(code, ""))
