"""What this process has open, by path: other threads open and close files of their own meanwhile."""

import contextlib
import os
from pathlib import Path


def open_below(path: Path) -> list[str]:
    """The files and folders at this path and below it that are open, one entry a descriptor."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself, or another thread's
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return [link for link in links if link == str(path) or link.startswith(f"{path}/")]
