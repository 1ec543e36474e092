"""How to start a program so that the thread that starts it cannot hang for long (blocking).

Until its exec is done a child shares our memory, and the thread that started it waits (linux/spawn.py). When
the executable or the working directory lies on a file system that this process serves itself, that could be
as long as a store takes, and the few threads that start processes are everybody's. Such a program is started
by a shell that lies on the root file system, which then waits alone.
"""

import errno
import os
import stat
from collections.abc import Sequence

from g8node.linux.guard import off_loop

_SHELL = "/bin/sh"
_CHANGE_AND_EXEC = 'cd -- "$0" && exec "$@"'


@off_loop
def launch_argv(argv: Sequence[str], cwd: str, path: str) -> list[str]:
    """The argument vector to exec with working directory `/` so that argv runs in cwd.

    argv[0] is looked up in `path` unless it has a slash (relative to cwd then). Raises FileNotFoundError,
    PermissionError or NotADirectoryError.
    """
    if not argv or not argv[0]:
        raise FileNotFoundError(errno.ENOENT, "no program given", "")
    directory = os.path.normpath(os.path.join("/", cwd))
    if not stat.S_ISDIR(os.stat(directory).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    program = find_program(argv[0], directory, path)
    if directory == "/" and _is_safe(program):
        return [program, *argv[1:]]
    return [_SHELL, "-c", _CHANGE_AND_EXEC, directory, program, *argv[1:]]


@off_loop
def find_program(name: str, directory: str, path: str) -> str:
    """The absolute path of an executable regular file."""
    if "/" in name:
        candidates = [os.path.join(directory, name)]
    else:
        candidates = [os.path.join("/", folder, name) for folder in path.split(":")]
    failure: OSError = FileNotFoundError(errno.ENOENT, "executable file not found", name)
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failure = error
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return candidate
        failure = PermissionError(errno.EACCES, os.strerror(errno.EACCES), candidate)
    raise failure


def _is_safe(program: str) -> bool:
    """On the root file system, and no script whose interpreter might lie elsewhere."""
    if os.stat(program).st_dev != os.stat("/").st_dev:
        return False
    with open(program, "rb") as file:
        return file.read(2) != b"#!"
