"""Namespaces and credentials of this process and others (blocking)."""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from g8node.linux import cgroup
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount, mount

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914  # netdevice(7)
_IFREQ_FLAGS: Final = struct.Struct("=16sH22x")
_IFF_UP: Final = 1

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


@off_loop
def prepare_agent_namespace() -> None:
    """Give an agent a mount namespace of its own; call once, before the first thread is made.

    The host's mounts still arrive (slave), ours never leave. Where the host keeps version 1 control groups
    beside version 2, crun wants to see version 2 alone, so that it is mounted over them here.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    mount("none", "/", "", Mount.REC | Mount.SLAVE)
    if not os.path.exists(f"{cgroup.MOUNT}/cgroup.controllers"):
        mount("cgroup2", cgroup.MOUNT, "cgroup2", Mount.NOSUID | Mount.NODEV | Mount.NOEXEC)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


@off_loop
def call_in(namespaces: Sequence[int], fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """fn's value, called in these namespaces (descriptors) by a thread that is made for it and ends with it.

    For namespaces that a thread may enter alone: net, uts, ipc.
    """

    def enter() -> T:
        for fd in namespaces:
            _check(_libc.setns(fd, 0), "setns")
        return fn(*args, **kwargs)

    return _in_thread(enter)


@off_loop
def new_network(space: int = -1) -> int:
    """A network namespace, its loopback up, that lives by this descriptor and the processes that enter it.

    `space` is a descriptor of one that is there already.
    """

    def make() -> int:
        if space < 0:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        else:
            try:
                _check(_libc.setns(space, 0), "setns")
            finally:
                os.close(space)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(b"lo", _IFF_UP))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _in_thread(make)


@off_loop
def open_network(pid: int) -> int:
    """The network namespace of a process, by a descriptor. OSError when it is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@off_loop
def call_alone(fn: Callable[[], T]) -> T:
    """fn's value, called by a thread that is made for it and ends with it, whatever it did to itself."""
    return _in_thread(fn)


def _in_thread(fn: Callable[[], T]) -> T:
    """A thread of a pool must keep its namespaces, so that none is borrowed."""
    values: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            values.append(fn())
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            errors.append(error)

    thread = threading.Thread(target=body, name="g8-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return values[0]


@off_loop
def own_capabilities() -> int:
    """The mask of capabilities that this process can hand to a child."""
    masks = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Cap"):
                name, value = line.split(":")
                masks[name] = int(value, 16)
    return masks["CapPrm"] & masks["CapBnd"]


@off_loop
def namespace_id(pid: int, kind: str) -> int:
    """Inode number of the process's namespace (`pid`, `net`, ...): equal numbers mean the same one."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


@off_loop
def inner_pids(pid: int) -> dict[int, int]:
    """All processes in the pid namespace of `pid`: pid as seen from here -> as seen inside. Empty: gone."""
    try:
        wanted = namespace_id(pid, "pid")
    except OSError:
        return {}
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if namespace_id(int(name), "pid") == wanted:
                    found[int(name)] = _innermost(int(name))
            except OSError:
                continue  # it ended meanwhile
    return found


def _innermost(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


@off_loop
def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal; False when it is gone.

    The PID 1 of a namespace is not touched by a signal that it has no handler for, SIGKILL apart.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False
