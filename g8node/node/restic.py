"""restic: its repositories as URLs, and runs of it (async); spec core0-resources 1.9.

The password goes to restic by its standard input, the place of the repository by its environment: no list of
processes shows either. Nothing is kept on the node between two runs.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from g8node.errors import InvalidArgument, NodeError
from g8node.linux.launch import launch_argv
from g8node.node import programs
from g8node.runtime import blocking
from g8node.runtime.process import Child, Reaper
from g8node.runtime.stdio import Pipes

SCHEME: Final = "restic:"
_REMOTE: Final = ("rest", "s3", "swift", "b2", "azure", "gs")
_OF_THE_NODE: Final = ("sftp", "rclone")
_SNAPSHOT: Final = re.compile(r"latest|[0-9a-f]{4,64}", re.ASCII)
_FAILED_MAX: Final = 4000
_TAIL_BYTES: Final = 64 << 10
_TERM_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Repository:
    """`snapshot` is empty where none is named."""

    place: str
    password: str
    snapshot: str

    @property
    def is_the_node_s(self) -> bool:
        """It is a folder of the node, or is reached by what belongs to it: keys, settings, programs."""
        return self.place.startswith("/") or self.place.partition(":")[0] in _OF_THE_NODE


def repository(url: str, *, field: str, snapshot: bool = False) -> Repository:
    """What a URL says; with `snapshot` it must name one. InvalidArgument names `field`, and no secret."""
    if not url.isprintable():
        raise InvalidArgument(f"{field}: expected a URL without line ends and the like")
    rest, _, fragment = url.partition("#")
    place, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    password = next((value for key, value in pairs if key == "password"), "")
    if others := [(key, value) for key, value in pairs if key != "password"]:
        place = f"{place}?{urlencode(others)}"
    if not password or not password.isprintable():
        raise InvalidArgument(f"{field}: expected the repository's password, as in /folder?password=word")
    if snapshot and not _SNAPSHOT.fullmatch(fragment):
        raise InvalidArgument(f"{field}: expected the id of a snapshot after #, got {fragment[:80]!r}")
    return Repository(_place(place, field), password, fragment)


def _place(place: str, field: str) -> str:
    scheme, colon, path = place.partition(":")
    if colon and scheme in (*_REMOTE, *_OF_THE_NODE) and path:
        return place
    path = path if colon and scheme == "file" else place
    if not path.startswith("/"):
        raise InvalidArgument(
            f"{field}: expected an absolute path of a repository, or one of"
            f" {', '.join((*_REMOTE, *_OF_THE_NODE))} and a colon before it"
        )
    return os.path.normpath(f"/{path.lstrip('/')}")


Attach = Callable[[Child], None]


def alone(child: Child) -> None:
    """For runs that nobody else signals."""


async def run(
    reaper: Reaper,
    repo: Repository,
    *words: str,
    cwd: str = "/",
    files: Sequence[str] = (),
    most: int = _TAIL_BYTES,
    attach: Attach = alone,
) -> bytes:
    """The end of what it prints, `most` bytes. NodeError with its words when it fails; cancelling ends it.

    `files`, paths in `cwd`, are what `backup` is to save. `attach` is told of the process.
    """
    argv = [await blocking.run("disk", programs.find, "restic"), "--no-cache", "--quiet", *words]
    env = {"PATH": ":".join(programs.FOLDERS), "RESTIC_REPOSITORY": repo.place, "RESTIC_PROGRESS_FPS": "0.05"}
    said, failed = _Tail(most), _Tail(_FAILED_MAX)
    with _list_of(files) as listed:
        if files:
            argv.append(f"--files-from-raw=/proc/self/fd/{listed[0]}")
        argv = await blocking.run("path", launch_argv, argv, cwd, env["PATH"])
        pipes = Pipes(f"{repo.password}\n".encode(), said.add, failed.add)
        try:
            stdin, stdout, stderr = pipes.open_child_ends()
            child = await reaper.spawn(
                argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=listed
            )
            pipes.release_child_ends()
            try:
                attach(child)
                code = await child.wait()
                await pipes.drained()
            finally:
                await asyncio.shield(_ended(child))
        finally:
            pipes.close()
    if code:
        raise NodeError(_words(code, bytes(failed.data).decode(errors="replace")))
    return bytes(said.data)


async def _ended(child: Child) -> None:
    """Give it a while to leave the repository as it should be left."""
    for number, wait_s in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, None)):
        if child.signal(number):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), wait_s)


def _words(code: int, printed: str) -> str:
    ended = f"was ended by signal {-code}" if code < 0 else f"failed ({code})"
    return f"restic {ended}: {' '.join(printed.split())}"


class _Tail:
    def __init__(self, most: int) -> None:
        self._most = most
        self.data = bytearray()

    def add(self, data: bytes) -> None:
        self.data += data
        del self.data[: -self._most]


@contextlib.contextmanager
def _list_of(files: Sequence[str]) -> Iterator[list[int]]:
    """A descriptor of a file that lists them, if there are any."""
    if not files:
        yield []
        return
    fd = os.memfd_create("g8-restic", os.MFD_CLOEXEC)
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(b"".join(os.fsencode(name) + b"\0" for name in files))
        os.lseek(fd, 0, os.SEEK_SET)
        yield [fd]
    finally:
        os.close(fd)
