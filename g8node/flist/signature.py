"""Detached Ed25519 signatures of flists (pure).

`<name>.flist.sig` is a JSON object: version 1, `digest` (BLAKE2b-256 of the flist file), `merkle`
(`merkle.py`), `key` (public) and `signature`, all hex. Signed is `g8 flist signature 1`, NUL, digest, merkle.
"""

import re
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from g8node.errors import InvalidArgument, PermissionDenied

SIGNATURE_BYTES_MAX: Final = 4096
SUFFIX: Final = ".sig"
_PURPOSE: Final = b"g8 flist signature 1\0"
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a signature file."""

    version: int
    digest: str
    merkle: str
    key: str
    signature: str


def new_key() -> bytes:
    """A private key, PEM."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> Ed25519PrivateKey:
    """A private key from its PEM. InvalidArgument: it is none, or of another kind."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"no private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidArgument("the private key is no Ed25519 key")
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half, as settings and signatures have it."""
    return key.public_key().public_bytes_raw().hex()


def parse_public(text: str) -> str:
    """A public key of a setting: 64 hex digits. InvalidArgument otherwise."""
    key = text.strip().lower()
    if not _KEY.fullmatch(key):
        raise InvalidArgument(f"key {text[:80]!r}: expected 64 hex digits of an Ed25519 public key")
    return key


def sign(key: Ed25519PrivateKey, digest: bytes, merkle: bytes) -> bytes:
    """The content of the signature file."""
    signature = key.sign(_PURPOSE + digest + merkle)
    made = Signature(1, digest.hex(), merkle.hex(), public_hex(key), signature.hex())
    return msgspec.json.encode(made) + b"\n"


def read(data: bytes) -> Signature:
    """A signature that is right by the key it names, whoever's that is. PermissionDenied: it is none."""
    if len(data) > SIGNATURE_BYTES_MAX:
        raise PermissionDenied(f"its signature has {len(data)} bytes, limit {SIGNATURE_BYTES_MAX}")
    try:
        found = msgspec.json.decode(data, type=Signature)
        signature = bytes.fromhex(found.signature)
        message = _PURPOSE + bytes.fromhex(found.digest) + bytes.fromhex(found.merkle)
    except (msgspec.MsgspecError, ValueError, UnicodeDecodeError) as error:
        raise PermissionDenied(f"its signature cannot be read: {error}") from None
    if found.version != 1 or not _KEY.fullmatch(found.key):
        raise PermissionDenied("its signature is of an unknown version, or names no key")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.key)).verify(signature, message)
    except InvalidSignature:
        raise PermissionDenied("its signature is wrong") from None
    return found


def verify(data: bytes, keys: frozenset[str], digest: str, merkle: str) -> str:
    """The allowed key that signed exactly this flist. PermissionDenied says why there is none."""
    found = read(data)
    if found.key not in keys:
        raise PermissionDenied(f"it is signed by {found.key}, which is not among the allowed keys")
    if found.digest != digest or found.merkle != merkle:
        raise PermissionDenied("its signature is that of another flist")
    return found.key
