"""Records of an flist: directories and access lists as Cap'n Proto messages, and their keys (pure).

The structs are the original's (file id 0xae9223e76351538a) with fields of ours appended: an old reader
still decodes everything it knows; the schema and golden bytes are in docs/formats/flist.md. What the original
cannot hold sits in `Extra`, a null pointer in flists of other writers. Byte offsets and pointer indexes below
are those of the compiled schema. Names and paths are bytes; nothing is trusted.
"""

import hashlib
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from g8node.errors import InvalidArgument
from g8node.wire.capnp import Builder, Message, Struct

BLOCK_UNIT: Final = 4096
NAME_MAX: Final = 255
TARGET_MAX: Final = 4095
NANOSECONDS: Final = 1_000_000_000
_TIME_MAX: Final = (1 << 32) - 1
_DIGEST: Final = 32


class Codec(IntEnum):
    """How the chunks of a file are encoded (File.codec)."""

    ORIGINAL = 0
    """Whatever the container's generation implies (spec 2)."""
    G8 = 1
    """wire/chunk.py without a publisher's secret."""
    G8_KEYED = 2
    """wire/chunk.py with one: a reader cannot redo the keyed hash."""


class Kind(IntEnum):
    """Union tag of Inode.attributes."""

    DIRECTORY = 0
    FILE = 1
    LINK = 2
    SPECIAL = 3


class Special(IntEnum):
    """Special.type."""

    SOCKET = 0
    BLOCK = 1
    CHARACTER = 2
    FIFO = 3
    UNKNOWN = 4


@dataclass(slots=True, eq=False)
class Blocks:
    """Chunks of a file as columns; a hole is 32 zero bytes of id and of key."""

    ids: bytes | bytearray = b""
    keys: bytes | bytearray = b""
    sizes: "array[int]" = field(default_factory=lambda: array("I"))
    codec: Codec = Codec.G8
    block_size: int = 512 * 1024

    def __len__(self) -> int:
        return len(self.sizes)


NO_BLOCKS: Final = Blocks()


@dataclass(slots=True)
class Extra:
    """What the original structs cannot hold."""

    mtime_s: int = 0
    mtime_ns: int = 0
    link_group: int = 0
    """Entries of one flist with the same number other than 0 are one inode."""
    raw_name: bytes = b""
    """Set when the name is not valid UTF-8."""
    raw_target: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One Inode of a Dir's contents."""

    name: bytes
    kind: Kind
    acl: str
    extra: Extra
    size: int = 0
    directory: str = ""
    """Key of a subdirectory's own record."""
    blocks: Blocks = field(default_factory=lambda: NO_BLOCKS)
    target: bytes = b""
    special: Special = Special.SOCKET
    device: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Directory:
    """A Dir record."""

    location: bytes
    parent: str
    acl: str
    extra: Extra
    entries: Sequence[Entry] = ()


@dataclass(frozen=True, slots=True)
class Acl:
    """An ACI record: owner and permission bits, shared by key."""

    mode: int
    """Lower twelve bits of st_mode."""
    uid: int
    gid: int


def directory_key(path: bytes) -> str:
    """Key of a directory: hex BLAKE2b-256 of its path without slashes at the ends; the root is empty."""
    return hashlib.blake2b(path, digest_size=32).hexdigest()


def acl_key(acl: Acl) -> str:
    """Key of an access list: hex BLAKE2b-128 of the text that the original hashes (spec 1.3)."""
    user, group = _owner_name(acl.uid), _owner_name(acl.gid)
    text = f"user:{user}\ngroup:{group}\nmode:0o{acl.mode:o}\nuid:{acl.uid}\ngid:{acl.gid}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _owner_name(number: int) -> str:
    # Names of the packing machine would make equal trees differ, and mean nothing in the container.
    return "root" if number == 0 else str(number)


def encode_acl(acl: Acl) -> bytes:
    """An ACI message."""
    builder = Builder()
    # uid and gid have the default -1 in the schema, so the wire holds them XORed with it.
    data = struct.pack("<HHIqq", acl.mode, 0, 0, ~acl.uid, ~acl.gid)
    slot = builder.struct(0, data, 3)
    builder.text(slot, _owner_name(acl.uid))
    builder.text(slot + 8, _owner_name(acl.gid))
    return builder.finish()


def decode_acl(message: bytes) -> Acl:
    """The reverse; an owner of -1 is looked up by its decimal name, else it is root or, as ever, 1000."""
    root = Message(message).root()
    uid, gid = (_owner(~root.i64(8 + 8 * i), root.text(i)) for i in range(2))
    return Acl(root.u16(0) & 0o7777, uid, gid)


def _owner(number: int, name: bytes) -> int:
    if number == -1:
        number = int(name) if name.isdigit() and len(name) < 11 else 0 if name == b"root" else 1000
    if not 0 <= number < 1 << 32:
        raise InvalidArgument(f"owner {number} is no 32-bit id")
    return number


def encode_directory(directory: Directory) -> bytes:
    """A Dir message."""
    builder = Builder()
    extra = directory.extra
    seconds = min(max(extra.mtime_s, 0), _TIME_MAX)
    slot = builder.struct(0, struct.pack("<QII", 4096, seconds, seconds), 6)
    location = directory.location
    builder.text(slot, _lossy(location.rpartition(b"/")[2]))
    builder.text(slot + 8, _lossy(location))
    count = len(directory.entries)
    if count:
        at = builder.structs(slot + 16, count, 3, 4)
        for entry in directory.entries:
            _encode_entry(builder, at, entry)
            at += 56
    builder.text(slot + 24, directory.parent)
    builder.text(slot + 32, directory.acl)
    _encode_extra(builder, slot + 40, extra)
    return builder.finish()


def _lossy(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encode_entry(builder: Builder, at: int, entry: Entry) -> None:
    extra = entry.extra
    seconds = min(max(extra.mtime_s, 0), _TIME_MAX)
    builder.put(at, struct.pack("<QHHIII", entry.size, entry.kind, 0, seconds, seconds, 0))
    slot = at + 24
    if entry.name.isascii():
        builder.text(slot, entry.name.decode())
    else:
        builder.text(slot, _lossy(entry.name))
        if not _is_utf8(entry.name):
            extra.raw_name = entry.name
    if entry.kind == Kind.DIRECTORY:
        builder.text(builder.struct(slot + 8, b"", 1), entry.directory)
    elif entry.kind == Kind.FILE:
        _encode_file(builder, slot + 8, entry.blocks)
    elif entry.kind == Kind.LINK:
        builder.text(builder.struct(slot + 8, b"", 1), _lossy(entry.target))
        if not _is_utf8(entry.target):
            extra.raw_target = entry.target
    else:
        _encode_special(builder, slot + 8, entry)
    builder.text(slot + 16, entry.acl)
    _encode_extra(builder, slot + 24, extra)


def _encode_special(builder: Builder, slot: int, entry: Entry) -> None:
    pointer = builder.struct(slot, struct.pack("<H6x", entry.special), 1)
    major, minor = entry.device
    is_device = entry.special in (Special.BLOCK, Special.CHARACTER)
    builder.data(pointer, f"{major},{minor}".encode() if is_device else b"(nothing)")


def _encode_file(builder: Builder, slot: int, blocks: Blocks) -> None:
    units = blocks.block_size // BLOCK_UNIT
    pointer = builder.struct(slot, struct.pack("<HH4x", units, blocks.codec), 1)
    if not blocks:
        return
    at = builder.structs(pointer, len(blocks), 1, 2)
    hole = bytes(_DIGEST)
    for index, size in enumerate(blocks.sizes):
        builder.put(at, struct.pack("<I", size))
        chunk = blocks.ids[_DIGEST * index : _DIGEST * (index + 1)]
        if chunk != hole:
            builder.data(at + 8, chunk)
            builder.data(at + 16, blocks.keys[_DIGEST * index : _DIGEST * (index + 1)])
        at += 24


def _encode_extra(builder: Builder, slot: int, extra: Extra) -> None:
    data = struct.pack("<qII", extra.mtime_s, extra.mtime_ns, extra.link_group)
    pointer = builder.struct(slot, data, 3)
    builder.data(pointer, extra.raw_name)
    builder.data(pointer + 8, extra.raw_target)
    if extra.xattrs:
        at = builder.structs(pointer + 16, len(extra.xattrs), 0, 2)
        for name, value in sorted(extra.xattrs.items()):
            builder.data(at, name)
            builder.data(at + 8, value)
            at += 16


def decode_directory(message: bytes, where: str) -> Directory:
    """The reverse, with every name checked. `where` names the directory in messages."""
    root = Message(message).root()
    extra = _decode_extra(root.struct(5), root.u32(8)) if root.has(5) else Extra(root.u32(8))
    directory = Directory(root.text(1), _ascii(root.text(3)), _ascii(root.text(4)), extra)
    directory.entries = [_decode_entry(item, where) for item in root.structs(2)]
    return directory


def _ascii(text: bytes) -> str:
    try:
        return text.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidArgument(f"record key {text!r} is not ASCII") from None


def _decode_extra(source: Struct, seconds: int) -> Extra:
    if not source.size:
        return Extra(seconds)
    extra = Extra(source.i64(0), source.u32(8), source.u32(12), source.data(0), source.data(1))
    if extra.mtime_ns >= NANOSECONDS:
        raise InvalidArgument(f"{extra.mtime_ns} nanoseconds, expected under {NANOSECONDS}")
    xattrs = {item.data(0): item.data(1) for item in source.structs(2)}
    if xattrs:
        extra.xattrs = xattrs
    return extra


def _decode_entry(source: Struct, where: str) -> Entry:
    extra = _decode_extra(source.struct(3), source.u32(12))
    name = extra.raw_name or source.text(0)
    check_name(name, where)
    tag = source.u16(8)
    if tag > Kind.SPECIAL:
        raise InvalidArgument(f"{where}{name!r}: unknown kind of entry {tag}")
    kind = Kind(tag)
    entry = Entry(name, kind, _ascii(source.text(2)), extra, source.u64(0))
    body = source.struct(1)
    if kind == Kind.FILE:
        entry.blocks = _decode_file(body, where, name)
    elif kind == Kind.DIRECTORY:
        entry.directory = _ascii(body.text(0))
    elif kind == Kind.LINK:
        entry.target = extra.raw_target or body.text(0)
    else:
        _decode_special(entry, body, where)
    return entry


def check_name(name: bytes, where: str) -> None:
    """Refuse what cannot be a directory entry."""
    if not 0 < len(name) <= NAME_MAX:
        raise InvalidArgument(f"{where}: name of {len(name)} bytes, expected 1 to {NAME_MAX}")
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise InvalidArgument(f"{where}: name {name!r} is not allowed")


def _decode_special(entry: Entry, body: Struct, where: str) -> None:
    number, text = body.u16(0), body.data(0)
    if number >= Special.UNKNOWN:
        raise InvalidArgument(f"{where}{entry.name!r}: unknown special type {number}")
    entry.special = Special(number)
    if entry.special in (Special.BLOCK, Special.CHARACTER):
        major, _, minor = text.partition(b",")
        if not (major.isdigit() and minor.isdigit() and len(text) < 24):
            raise InvalidArgument(f"{where}{entry.name!r}: device number {text[:24]!r}, expected major,minor")
        entry.device = (int(major), int(minor))


def _decode_file(body: Struct, where: str, name: bytes) -> Blocks:
    items = body.structs(0)
    if not items:
        return NO_BLOCKS
    number = body.u16(2)
    if number not in (Codec.G8, Codec.G8_KEYED):
        raise InvalidArgument(f"{where}{name!r}: chunk codec {number} is not supported")
    ids, keys, sizes = bytearray(), bytearray(), array("I")
    hole = bytes(_DIGEST)
    for item in items:
        chunk, key = item.data(0), item.data(1)
        if not chunk and not key:
            chunk = key = hole
        if len(chunk) != _DIGEST or len(key) != _DIGEST:
            raise InvalidArgument(f"{where}{name!r}: chunk id or key is not of {_DIGEST} bytes")
        ids += chunk
        keys += key
        sizes.append(item.u32(0))
    return Blocks(ids, keys, sizes, Codec(number), body.u16(0) * BLOCK_UNIT)
