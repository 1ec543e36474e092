"""Inline extended attributes of EROFS inodes (pure)."""

import struct
from collections.abc import Mapping
from typing import Final

from g8node.errors import InvalidArgument

VALUE_MAX: Final = 65535
_HEADER_SIZE: Final = 12
_ENTRY: Final = struct.Struct("<BBH")
_WORDS_MAX: Final = 65535
_PREFIXES: Final = (
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)
PREFIXES: Final = (*(prefix for prefix, _ in _PREFIXES), b"system.")
"""How the names of extended attributes begin."""
_WHOLE_NAMES: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}


def split_name(name: bytes) -> tuple[int, bytes]:
    """Name index and rest of the name. InvalidArgument: a name that EROFS cannot hold."""
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name], b""
    for prefix, index in _PREFIXES:
        rest = name[len(prefix) :]
        if name.startswith(prefix) and rest and len(name) <= 255 and b"\0" not in rest:
            return index, rest
    raise InvalidArgument(
        f"extended attribute {name!r}: expected user., trusted., security. or system.posix_acl_*"
    )


def xattrs_size(xattrs: Mapping[bytes, bytes]) -> int:
    """Bytes between the inode and its data."""
    if not xattrs:
        return 0
    size = _HEADER_SIZE
    for name, value in xattrs.items():
        size += -(-(_ENTRY.size + len(split_name(name)[1]) + len(value)) // 4) * 4
    return size


def encode_xattrs(xattrs: Mapping[bytes, bytes]) -> tuple[int, bytes]:
    """i_xattr_icount and the area itself; names in byte order, so that equal sets give equal bytes."""
    if not xattrs:
        return 0, b""
    area = bytearray(_HEADER_SIZE)
    for name, value in sorted(xattrs.items()):
        index, rest = split_name(name)
        if len(value) > VALUE_MAX:
            raise InvalidArgument(f"extended attribute {name!r}: {len(value)} bytes, limit {VALUE_MAX}")
        area += _ENTRY.pack(len(rest), index, len(value)) + rest + value
        area += bytes(-len(area) % 4)
    icount = (len(area) - _HEADER_SIZE) // 4 + 1
    if icount > _WORDS_MAX:
        raise InvalidArgument(
            f"extended attributes of one file take {len(area)} bytes, limit {_WORDS_MAX * 4}"
        )
    return icount, bytes(area)


def decode_xattrs(area: bytes) -> dict[bytes, bytes]:
    """What `encode_xattrs` made; its area may be empty."""
    prefixes = {index: prefix for prefix, index in _PREFIXES} | {i: name for name, i in _WHOLE_NAMES.items()}
    found = {}
    at = _HEADER_SIZE
    while at < len(area):
        length, index, size = _ENTRY.unpack_from(area, at)
        at += _ENTRY.size
        found[prefixes[index] + area[at : at + length]] = area[at + length : at + length + size]
        at += -(-(_ENTRY.size + length + size) // 4) * 4 - _ENTRY.size
    return found
