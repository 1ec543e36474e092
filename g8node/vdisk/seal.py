"""Keys of encrypted vdisks (blocking: one function reads a file).

The master key comes from outside and is never written down here. Each plain vdisk has a key of its own,
BLAKE2b of its random salt under the master key; a check value tells a wrong master key from a right one.

Deduplicated vdisks of one master key share a pool, and so two keys: one for the digests by which equal
content is found, one for the content. The pool is named after the key's domain, a BLAKE2b of it as well.
"""

import hashlib
import hmac
import os
from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument, Unavailable

_KEY_MIN: Final = 32
_KEY_MAX: Final = 64
Hex16 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
HexDomain = Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")]


class Seal(Struct, frozen=True):
    """What is written down of a vdisk's encryption: hex of 16 bytes each. `domain`: of a deduplicated one."""

    salt: Hex16
    check: Hex16
    domain: HexDomain = ""


def read_master_key(path: str) -> bytes:
    """The key of a file, see `master_key_of`."""
    try:
        with open(path, "rb") as file:
            return master_key_of(file.readline(1024), path)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None


def master_key_of(text: bytes, path: str) -> bytes:
    """The first line: 64 to 128 hex digits. InvalidArgument, without a word of what is in it."""
    try:
        key = bytes.fromhex(text.partition(b"\n")[0].decode("ascii").strip())
    except ValueError:
        raise InvalidArgument(f"{path}: expected hex digits") from None
    if not _KEY_MIN <= len(key) <= _KEY_MAX:
        raise InvalidArgument(f"{path}: expected {2 * _KEY_MIN} to {2 * _KEY_MAX} hex digits")
    return key


def new_seal(master: bytes, *, shared: bool = False) -> Seal:
    """For a new vdisk; `shared`: one whose content others of the same master key share."""
    salt = os.urandom(16)
    return Seal(salt.hex(), _check(master, salt).hex(), domain_of(master) if shared else "")


def domain_of(master: bytes) -> str:
    """Tells master keys apart without telling anything of them."""
    return hashlib.blake2b(key=master, digest_size=16, person=b"g8 vdisk domain").hexdigest()


def pool_keys(master: bytes, domain: str) -> tuple[bytes, bytes]:
    """For digests, and for AES-256-XTS. Unavailable without the master key of that domain."""
    if not master:
        raise Unavailable("the content is encrypted, and there is no key")
    if domain_of(master) != domain:
        raise Unavailable("the content was encrypted with another key")
    digests = hashlib.blake2b(key=master, digest_size=64, person=b"g8 vdisk digests").digest()
    return digests, hashlib.blake2b(key=master, digest_size=64, person=b"g8 vdisk content").digest()


def vdisk_key(master: bytes, seal: Seal, vdisk: str) -> bytes:
    """Unavailable without a master key, or with another one than the vdisk was made with."""
    if not master:
        raise Unavailable(f"vdisk {vdisk!r} is encrypted, and there is no key")
    salt = bytes.fromhex(seal.salt)
    if not hmac.compare_digest(_check(master, salt).hex(), seal.check):
        raise Unavailable(f"vdisk {vdisk!r} was encrypted with another key")
    return hashlib.blake2b(salt, key=master, digest_size=64, person=b"g8 vdisk xts").digest()


def _check(master: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(salt, key=master, digest_size=16, person=b"g8 vdisk check").digest()
