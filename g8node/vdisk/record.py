"""What is written down of a vdisk beside its blocks (pure), and how its folder is called."""

import secrets
import urllib.parse
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.vdisk.limits import Limits
from g8node.vdisk.seal import Seal

SIZE_MAX: Final = 64 << 40
BLOCK_MIN: Final = 512
BLOCK_MAX: Final = 128 << 10
ID_MAX: Final = 80
"""Characters; quoted, a name has at most three bytes each."""

Kind = Literal["boot", "db", "cache", "tmp"]
Storage = Literal["plain", "dedup"]
StorageWish = Literal["", "plain", "dedup"]
VdiskId = Annotated[
    str,
    Meta(
        pattern=rf"\A[!-~]{{1,{ID_MAX}}}\Z",
        description="1 to 80 printable ASCII characters without spaces.",
    ),
]
TemplateId = Annotated[str, Meta(pattern=rf"\A[!-~]{{0,{ID_MAX}}}\Z")]
SizeBytes = Annotated[int, Meta(ge=BLOCK_MIN, le=SIZE_MAX)]
BlockSize = Annotated[int, Meta(ge=BLOCK_MIN, le=BLOCK_MAX)]


class Record(Struct, frozen=True, kw_only=True):
    """One vdisk. Sizes in bytes, `created` in seconds since 1970; with a `seal` it is encrypted.

    A deduplicated one has a `number` that no other ever had. Up to `template_size` it shows what the vdisk
    `template` has, where it has nothing itself.
    """

    version: Literal[1] = 1
    id: VdiskId
    type: Kind
    size: SizeBytes
    block_size: BlockSize = 4096
    read_only: bool = False
    limits: Limits = Limits()
    seal: Seal | None = None
    storage: Storage = "plain"
    number: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    template: TemplateId = ""
    template_size: Annotated[int, Meta(ge=0, le=SIZE_MAX)] = 0
    created: int = 0

    def check(self) -> None:
        """InvalidArgument for what the types alone cannot say."""
        if self.block_size & (self.block_size - 1):
            raise InvalidArgument(f"block_size: expected a power of two, not {self.block_size}")
        if self.size % self.block_size:
            raise InvalidArgument(f"size: expected a multiple of the block size {self.block_size}")
        if self.seal is not None and (self.storage == "dedup") != bool(self.seal.domain):
            raise InvalidArgument("seal.domain: expected of a deduplicated vdisk, and of no other")

    @property
    def blocks(self) -> int:
        return self.size // self.block_size

    @property
    def pool(self) -> str:
        """Where the content of a deduplicated one lies: see pools.py."""
        return pool_name(self.block_size, self.seal.domain if self.seal is not None else "")


def pool_name(block_size: int, domain: str) -> str:
    return f"{block_size}-{domain}" if domain else str(block_size)


def storage_of(asked: StorageWish, kind: Kind, *, template: str, encrypted: bool) -> Storage:
    """What is asked for; else what suits: boot disks and clones have much in common.

    What is encrypted shows by its deduplication which blocks are equal, so that must be asked for.
    """
    return asked or ("dedup" if (template or kind == "boot") and not encrypted else "plain")


def fresh_number() -> int:
    return secrets.randbits(61) + 1


def encode(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def decode(data: bytes, path: str) -> Record:
    """InvalidArgument names the file and the field."""
    try:
        record = msgspec.json.decode(data, type=Record)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{path}: {error}") from error
    record.check()
    return record


def check_id(vdisk: str) -> None:
    """Raises InvalidArgument."""
    try:
        msgspec.convert(vdisk, VdiskId)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"vdisk id {vdisk[:100]!r}: expected {_ID_TEXT}") from error


_ID_TEXT: Final = "1 to 80 printable ASCII characters without spaces"


def folder_name(vdisk: str) -> str:
    """Any id as one file name that does not begin with a dot."""
    return urllib.parse.quote(vdisk, safe="").replace(".", "%2E")


def id_of_folder(name: str) -> str:
    return urllib.parse.unquote(name)
