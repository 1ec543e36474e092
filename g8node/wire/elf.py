"""What an ELF program is linked with, as far as its beginning tells (pure)."""

import re
from typing import Final

_MAGIC: Final = b"\x7fELF"
_LIBRARY: Final = re.compile(rb"\0((?:lib|ld-)[A-Za-z0-9_+.-]{1,64}\.so\.[0-9.]{1,16})(?=\0)")
_LOADER: Final = re.compile(rb"/(ld-[A-Za-z0-9_+.-]{1,64}\.so\.[0-9.]{1,16})\0")
_LIBRARIES_MAX: Final = 256


def linked(head: bytes) -> list[bytes] | None:
    """Names of the loader and of libraries (`libc.so.6`), each once; None: no beginning of an ELF file.

    Its strings are looked through, not its tables, which point all over the file: a guess, good enough for
    fetching ahead.
    """
    if not head.startswith(_MAGIC):
        return None
    found = dict.fromkeys(_LOADER.findall(head[:4096]))
    for match in _LIBRARY.finditer(head):
        if len(found) == _LIBRARIES_MAX:
            break
        found[match[1]] = None
    return list(found)
