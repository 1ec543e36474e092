"""Small text files of a folder (blocking)."""

import contextlib
import os
from collections.abc import Sequence

from g8node.linux.guard import off_loop


@off_loop
def read_folders(
    folders: Sequence[str], suffix: str, *, size_max: int, count_max: int
) -> tuple[list[tuple[str, str]], list[str]]:
    """(path, text) of the files with that suffix, each folder's by name; and one line for each problem.

    Not recursive. A file larger than `size_max` bytes, beyond the first `count_max`, unreadable or no UTF-8
    is a problem.
    """
    texts: list[tuple[str, str]] = []
    problems: list[str] = []
    for folder in folders:
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        if len(names) > count_max:
            problems.append(f"{folder}: {len(names)} files, only the first {count_max} are read")
        for path in (os.path.join(folder, name) for name in names[:count_max]):
            try:
                texts.append((path, read_text(path, size_max)))
            except (OSError, ValueError) as error:
                problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    return texts, problems


@off_loop
def read_text(path: str, size_max: int) -> str:
    """A UTF-8 file of at most `size_max` bytes; else ValueError. OSError."""
    # A FIFO among the files must not hold up the boot.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = b""
        while len(data) <= size_max and (piece := os.read(fd, size_max + 1 - len(data))):
            data += piece
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    if len(data) > size_max:
        raise ValueError(f"larger than {size_max} bytes")
    return data.decode("utf-8")
