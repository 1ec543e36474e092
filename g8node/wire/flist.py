"""Records of an flist: directories and access lists as Cap'n Proto messages, and their keys (pure).

The structs are the original's (file id 0xae9223e76351538a) with fields of ours appended: an old reader
still decodes everything it knows; the schema and golden bytes are in docs/formats/flist.md. What the original
cannot hold sits in `Extra`, a null pointer in flists of other writers. Byte offsets and pointer indexes below
are those of the compiled schema. Names and paths are bytes; nothing is trusted.
"""

import hashlib
import re
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
CHUNK_UNITS: Final = 128
_V1_DIGITS: Final = 64
_V1_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")
_DEVICE: Final = re.compile(rb"(\d{1,10}),(\d{1,10})")


class Codec(IntEnum):
    """How the chunks of a file are encoded (File.codec; wire/codecs.py)."""

    V2 = 0
    """The original's with ids of 16 bytes. In a record 0 is the original's: ids of 64 digits make it V1."""
    G8 = 1
    """wire/chunk.py without a publisher's secret."""
    G8_KEYED = 2
    """wire/chunk.py with one: a reader cannot redo the keyed hash."""
    V3 = 3
    """That of rfs: ids of 32 bytes."""
    V1 = 4
    """The original's with ids of 64 hex digits; 0 in a record."""
    ABSENT = 255
    """In memory only: the flist should name this chunk and does not."""


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
    """Chunks of a file as columns: ids and keys of 32 bytes each, in the form of wire/codecs.py.

    A hole is 32 zero bytes of id and of key. `ABSENT_ID` is a chunk that the writer left out by mistake.
    """

    ids: bytes | bytearray = b""
    keys: bytes | bytearray = b""
    sizes: "array[int]" = field(default_factory=lambda: array("I"))
    codec: Codec = Codec.G8
    block_size: int = 512 * 1024

    def __len__(self) -> int:
        return len(self.sizes)


NO_BLOCKS: Final = Blocks()
ABSENT_ID: Final = b"\xff" * 32
ABSENT_MAX: Final = 64
"""So many chunks may be left out of a file; the original's writer lost one."""


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


def directory_key(path: bytes, digest_size: int = 32) -> str:
    """Key of a directory: hex BLAKE2b of its path without slashes at the ends; the root is empty."""
    return hashlib.blake2b(path, digest_size=digest_size).hexdigest()


def acl_key(acl: Acl, digest_size: int = 16) -> str:
    """Key of an access list: hex BLAKE2b of the text that the original hashes (spec 1.3)."""
    user, group = _owner_name(acl.uid), _owner_name(acl.gid)
    text = f"user:{user}\ngroup:{group}\nmode:0o{acl.mode:o}\nuid:{acl.uid}\ngid:{acl.gid}"
    return hashlib.blake2b(text.encode(), digest_size=digest_size).hexdigest()


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


def encode_directory(directory: Directory, *, original: bool = False) -> bytes:
    """A Dir message; `original`: without fields of ours."""
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
            _encode_entry(builder, at, entry, original)
            at += 56
    builder.text(slot + 24, directory.parent)
    builder.text(slot + 32, directory.acl)
    if not original:
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


def _encode_entry(builder: Builder, at: int, entry: Entry, original: bool) -> None:
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
    if not original:
        _encode_extra(builder, slot + 24, extra)


def _encode_special(builder: Builder, slot: int, entry: Entry) -> None:
    pointer = builder.struct(slot, struct.pack("<H6x", entry.special), 1)
    major, minor = entry.device
    is_device = entry.special in (Special.BLOCK, Special.CHARACTER)
    builder.data(pointer, f"{major},{minor}".encode() if is_device else b"(nothing)")


def _encode_file(builder: Builder, slot: int, blocks: Blocks) -> None:
    units = blocks.block_size // BLOCK_UNIT
    codec = Codec.V2 if blocks.codec == Codec.V1 else blocks.codec
    pointer = builder.struct(slot, struct.pack("<HH4x", units, codec), 1)
    if not blocks:
        return
    absent = sum(blocks.ids[-_DIGEST * n or None :][:_DIGEST] == ABSENT_ID for n in range(1, ABSENT_MAX + 1))
    at = builder.structs(pointer, len(blocks) - absent, 1, 2)
    hole = bytes(_DIGEST)
    for index, size in enumerate(blocks.sizes[: len(blocks) - absent]):
        builder.put(at, struct.pack("<I", size))
        chunk = blocks.ids[_DIGEST * index : _DIGEST * (index + 1)]
        if chunk != hole:
            key = blocks.keys[_DIGEST * index : _DIGEST * (index + 1)]
            builder.data(at + 8, _recorded(chunk, blocks.codec))
            builder.data(at + 16, _recorded(key, blocks.codec))
        at += 24


def _recorded(digest: bytes | bytearray, codec: Codec) -> bytes | bytearray:
    """An id or key as records of its generation hold it."""
    if codec == Codec.V2:
        return digest[: _DIGEST // 2]
    return digest.hex().encode() if codec == Codec.V1 else digest


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
        entry.blocks = _decode_file(body, where, name, entry.size)
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
    if number > Special.UNKNOWN:
        raise InvalidArgument(f"{where}{entry.name!r}: unknown special type {number}")
    entry.special = Special(number)
    if entry.special in (Special.SOCKET, Special.UNKNOWN):
        # The original's writer says socket of everything; numbers say device, though not which kind.
        entry.special = Special.CHARACTER if _DEVICE.fullmatch(text) else Special.SOCKET
    if entry.special in (Special.BLOCK, Special.CHARACTER):
        match = _DEVICE.fullmatch(text)
        if match is None:
            raise InvalidArgument(f"{where}{entry.name!r}: device number {text[:24]!r}, expected major,minor")
        entry.device = (int(match[1]), int(match[2]))


def _decode_file(body: Struct, where: str, name: bytes, size: int) -> Blocks:
    items = body.structs(0)
    number = body.u16(2)
    if not items and (number or not size):
        return NO_BLOCKS
    if number not in (Codec.V2, Codec.G8, Codec.G8_KEYED, Codec.V3):
        raise InvalidArgument(f"{where}{name!r}: chunk codec {number} is not supported")
    blocks = Blocks(bytearray(), bytearray(), array("I"), Codec(number), body.u16(0) * BLOCK_UNIT)
    if number == Codec.V2:
        _original_chunks(blocks, [(item.data(0), item.data(1)) for item in items], f"{where}{name!r}", size)
        return blocks
    assert isinstance(blocks.ids, bytearray)
    assert isinstance(blocks.keys, bytearray)
    hole = bytes(_DIGEST)
    for item in items:
        chunk, key = item.data(0), item.data(1)
        if not chunk and not key:
            chunk = key = hole
        if len(chunk) != _DIGEST or len(key) != _DIGEST:
            raise InvalidArgument(f"{where}{name!r}: chunk id or key is not of {_DIGEST} bytes")
        blocks.ids += chunk
        blocks.keys += key
        blocks.sizes.append(item.u32(0))
    return blocks


def _original_chunks(blocks: Blocks, items: list[tuple[bytes, bytes]], where: str, size: int) -> None:
    """Chunks of v2 or v1, which do not say their sizes."""
    blocks.block_size = blocks.block_size or CHUNK_UNITS * BLOCK_UNIT
    if items and len(items[0][0]) == _V1_DIGITS:
        blocks.codec = Codec.V1
    assert isinstance(blocks.ids, bytearray)
    assert isinstance(blocks.keys, bytearray)
    for chunk, key in items:
        blocks.ids += _original_digest(chunk, blocks.codec, where)
        blocks.keys += _original_digest(key, blocks.codec, where)
    blocks.sizes = array("I", [blocks.block_size]) * len(items)
    complete(blocks, size, where)


def complete(blocks: Blocks, size: int, where: str) -> None:
    """Enter chunks that the writer forgot as absent, and give the last chunk its size.

    InvalidArgument: there are too many or too few for a file of this size.
    """
    known = len(blocks)
    wanted = -(-size // blocks.block_size)
    if wanted - known > ABSENT_MAX or wanted < known:
        raise InvalidArgument(f"{where}: size {size} does not go with {known} chunks")
    assert isinstance(blocks.ids, bytearray)
    assert isinstance(blocks.keys, bytearray)
    blocks.ids += ABSENT_ID * (wanted - known)
    blocks.keys += ABSENT_ID * (wanted - known)
    blocks.sizes.extend([blocks.block_size] * (wanted - known))
    if wanted:
        blocks.sizes[-1] = size - (wanted - 1) * blocks.block_size


def _original_digest(value: bytes, codec: Codec, where: str) -> bytes:
    """An id or key of the original's as 32 bytes."""
    if codec == Codec.V1 and _V1_DIGEST.fullmatch(value):
        return bytes.fromhex(value.decode())
    if codec == Codec.V2 and len(value) == _DIGEST // 2:
        return value + bytes(_DIGEST // 2)
    raise InvalidArgument(f"{where}: chunk id or key of {len(value)} bytes, expected 16, or 64 hex digits")
