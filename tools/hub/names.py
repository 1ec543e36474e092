"""Names that the Hub accepts in paths (pure): strict patterns, so that no name can leave its folder."""

import re
from typing import Final

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId

SUFFIX: Final = ".flist"
RESERVED: Final = frozenset({"api", "chunks", "me", "search", "static", "tags", "login", "token"})
"""Words that are, or may become, first parts of the Hub's own paths."""

_NO_TAGS: Final = frozenset({"docker", "merge", "promote", "upload", "upload-flist"})
"""Words of the original's paths that stand where a tag does."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FLIST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@~-]{0,120}\.flist", re.ASCII)
_CHUNK: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}|[0-9a-f]{128}", re.ASCII)


def repository(name: str) -> str:
    """The name itself, or InvalidArgument."""
    if not _REPOSITORY.fullmatch(name) or name in RESERVED or name.endswith(SUFFIX):
        raise InvalidArgument(
            f"repository {_shown(name)}: expected 1 to 63 of a-z A-Z 0-9 . _ - beginning with a letter or"
            f" digit, and none of {', '.join(sorted(RESERVED))}"
        )
    return name


def flist(name: str) -> str:
    """The name itself, or InvalidArgument."""
    if not _FLIST.fullmatch(name):
        raise InvalidArgument(
            f"flist name {_shown(name)}: expected 1 to 121 of a-z A-Z 0-9 . _ + @ ~ - beginning with a letter"
            f" or digit, then {SUFFIX}"
        )
    return name


def tag(name: str) -> str:
    """The name itself, or InvalidArgument."""
    if not _REPOSITORY.fullmatch(name) or name in _NO_TAGS or name.endswith(SUFFIX):
        raise InvalidArgument(
            f"tag {_shown(name)}: expected 1 to 63 of a-z A-Z 0-9 . _ - beginning with a letter or digit,"
            f" and none of {', '.join(sorted(_NO_TAGS))}"
        )
    return name


def chunk(name: str) -> ChunkId:
    """The id that hex digits stand for, 64 of them or, for old flists, 32 or 128; or InvalidArgument."""
    if not _CHUNK.fullmatch(name):
        raise InvalidArgument(f"chunk id {_shown(name)}: expected 64 (or 32, 128) lower-case hex digits")
    return ChunkId(bytes.fromhex(name))


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}…")
